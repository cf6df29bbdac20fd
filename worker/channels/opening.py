"""Opening connections aside: a server that is slow to greet on one does not hold up the others."""

import socket
from collections import deque
from collections.abc import Callable
from threading import Lock, Thread

from worker.channels.dialogue import Dialogue
from worker.channels.smtp import Failure


class Opening:
    """Connections that are being opened, each by a thread of its own; readable once one of them is done."""

    def __init__(self, connect: Callable[[], Dialogue], keep: Callable[[Dialogue], None]) -> None:
        """`connect` raises Failure; `keep` takes what opens when nobody waits for it any more."""
        self._connect, self._keep = connect, keep
        self._done: deque[Dialogue | BaseException] = deque()
        self._lock, self._over = Lock(), False
        self._here, self._there = socket.socketpair()
        self.count = 0
        """How many are under way."""

    def fileno(self) -> int:
        """For a selector."""
        return self._here.fileno()

    def start(self) -> None:
        """Open one more."""
        self.count += 1
        Thread(target=self._open, name="bellhop-smtp", daemon=True).start()

    def take(self) -> list[Dialogue | Failure]:
        """Return those that are done: open, or refused."""
        self._here.recv(4096)
        found: list[Dialogue | Failure] = []
        while self._done:
            self.count -= 1
            match self._done.popleft():
                case Dialogue() | Failure() as one:
                    found.append(one)
                case error:
                    raise error
        return found

    def end(self) -> None:
        """Wait no longer: what still opens is kept."""
        with self._lock:
            self._over = True
            for one in self._done:
                if isinstance(one, Dialogue):
                    self._keep(one)
            self._here.close()
            self._there.close()

    def _open(self) -> None:
        found: Dialogue | BaseException
        try:
            found = self._connect()
        except BaseException as error:
            found = error
        with self._lock:
            if not self._over:
                self._done.append(found)
                self._there.send(b".")
            elif isinstance(found, Dialogue):
                self._keep(found)
