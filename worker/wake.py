"""Wake-ups that nobody waits for: a thread of this process publishes them, at most one at a time and twenty a second.

The caller is never held up nor failed, in an event loop neither. The last of many is published too. While the broker is
away none are tried there for some seconds: beat finds what waits.
"""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable

log = logging.getLogger(__name__)

#: Seconds between two wake-ups.
INTERVAL = 0.05
#: Seconds without any after one that failed.
PAUSE = 5.0
#: Seconds that the end of the process waits for one that is due.
LAST = 2.0

_state = threading.Condition()
_due: dict[Hashable, Callable[[], object]] = {}
_thread: threading.Thread | None = None
_busy = False
_quiet_until: dict[Hashable, float] = {}


def soon(key: Hashable, publish: Callable[[], object]) -> None:
    """Have `publish` called by the thread, once for all calls with this key until then."""
    global _thread
    with _state:
        if time.monotonic() < _quiet_until.get(key, 0):
            return
        _quiet_until.pop(key, None)
        _due[key] = publish
        if _thread is None:
            _thread = threading.Thread(target=_run, name="bellhop-wake", daemon=True)
            _thread.start()
        _state.notify_all()


def idle(seconds: float) -> bool:
    """Wait until nothing is due; False where that takes longer."""
    with _state:
        return _state.wait_for(lambda: not _due and not _busy, seconds)


def _run() -> None:
    global _busy
    while True:
        with _state:
            _busy = False
            _state.notify_all()
            _state.wait_for(lambda: _due)
            _busy, taken = True, list(_due.items())
            _due.clear()
        for key, publish in taken:
            _try(key, publish)
        time.sleep(INTERVAL)


def _try(key: Hashable, publish: Callable[[], object]) -> None:
    try:
        publish()
    except Exception as error:
        log.warning("a waiting request's wake-up failed (%s); beat will find it", type(error).__name__)
        with _state:
            _quiet_until[key] = time.monotonic() + PAUSE
            _due.pop(key, None)


def _forget() -> None:
    """A forked child has no thread, and nothing of its parent's to publish."""
    global _state, _thread, _busy
    _state, _thread, _busy = threading.Condition(), None, False
    _due.clear()


os.register_at_fork(after_in_child=_forget)
atexit.register(idle, LAST)
