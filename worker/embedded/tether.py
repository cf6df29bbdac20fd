"""Run a command that gets SIGTERM when its parent dies, even by SIGKILL: `tether.py PARENT_PID COMMAND...`.

Linux only (prctl(2), PR_SET_PDEATHSIG, which survives execve(2)); elsewhere the command simply runs. A program of its
own rather than a `preexec_fn`, because Python code between fork and exec can deadlock a parent that has threads.
Imports nothing of Bellhop: it is run by its path, before the environment's own paths count.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Become the command. Exits with 1 when the parent is already gone, 127 when the command cannot be run."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    # Python ignores SIGPIPE, and the command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        print(f"{command[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(127)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
