"""Whether this worker was told to stop: its main process says so, the processes of its pool ask.

They share the memory of a worker that forks; one that spawns its processes anew just waits for their tasks.
"""

import mmap

_told = mmap.mmap(-1, 1)


def stop() -> None:
    """Tell every process of this worker to begin nothing more."""
    _told[0] = 1


def stopping() -> bool:
    """Whether to begin nothing more."""
    return _told[0] != 0
