"""Letters over one open SMTP connection, without ever waiting for the server.

With PIPELINING (RFC 2920) MAIL, RCPT and DATA go out in one write, and those of the next letter together with the
content of the one before it: one round trip per letter. Without it each command waits for the answer to the last.
"""

from collections import deque
from dataclasses import dataclass
from math import inf
from ssl import SSLSocket, SSLWantReadError, SSLWantWriteError
from time import monotonic

from worker.channels import Parcel, Verdict
from worker.channels.mime import Letter
from worker.channels.replies import Replies
from worker.channels.smtp import END_OF_DATA, Failure, Session, reason

_MOVES = 3
"""How often a letter that nothing was risked for goes on to another connection."""
_OCTETS = 65536
"""Read at once."""
_DOT = b".\r\n"


@dataclass(slots=True)
class Errand:
    """A letter to be carried, and for whom."""

    parcel: Parcel
    letter: Letter
    moves: int = 0


class Dialogue:
    """One connection and the letters under way on it: at most one whose content is out, and one ahead of its content.

    The owner calls `act` when the socket is ready or the deadline has come, then looks at `told` and `left`.
    """

    def __init__(self, session: Session, era: int = 0) -> None:
        """`era` is the owner's, who counts by it what it has closed."""
        assert session.sock is not None
        self.session, self.sock, self.era = session, session.sock, era
        self.sock.setblocking(False)
        self.pipelining = session.has_extn("pipelining")
        self.proven = False
        """The server has taken a command, or may have left since: a letter that finds it dead goes on elsewhere."""
        self.told: list[tuple[Errand, str | Failure]] = []
        """What became of letters, for the owner to take."""
        self.left: list[Errand] = []
        """Letters of a broken connection that another one can carry, for the owner to take."""
        self.refusal: Failure | None = None
        """Why a new connection broke before it was of any use."""
        self.deadline = inf
        self.risked: Errand | None = None
        """The letter whose content goes out or is out: the server may take it at any moment."""
        self.ready = False
        """The server waits for the content of the letter ahead."""
        self._ahead: Errand | None = None
        self._refused = False
        self._unclean = False
        self._replies = Replies()
        self._expected: deque[tuple[str, Errand | None]] = deque()
        self._unsaid: deque[tuple[str, bytes]] = deque()
        self._queue: deque[memoryview] = deque()
        self._queued = self._taken = self._content_end = self._heard = 0
        self._awaited: tuple[int, bool, bool] | None = None
        self._lost: OSError | None = None

    @property
    def alive(self) -> bool:
        """False once the connection is closed, and in a child that was forked after connecting."""
        return self.session.alive

    @property
    def _is_open(self) -> bool:
        """The same for whoever has a letter under way: that is no child."""
        return self.session.sock is not None

    @property
    def free(self) -> bool:
        """Whether a letter can begin."""
        return self._ahead is None and (self.pipelining or not self._expected) and self._is_open

    @property
    def at_rest(self) -> bool:
        """Whether nothing is under way."""
        return self._ahead is None and not self._expected

    @property
    def writing(self) -> bool:
        """Whether there are octets that the socket would not take yet."""
        return bool(self._queue)

    def refuses(self, letter: Letter) -> Failure | None:
        """Return why this server can never take the letter, by what it offers; None if it may."""
        limit = self.session.esmtp_features.get("size", "")
        if limit.isdecimal() and 0 < int(limit) < letter.size:
            return Failure("MAIL", None, "the message is larger than the server's SIZE", Verdict.PERMANENT)
        if letter.smtputf8 and not self.session.has_extn("smtputf8"):
            return Failure("MAIL", None, "the address needs SMTPUTF8, which the server lacks", Verdict.PERMANENT)
        return None

    def begin(self, errand: Errand) -> None:
        """Begin a letter, up to DATA: nothing is risked by that."""
        self._write(self._prelude(errand))
        self._rearm()

    def carry(self, following: Errand | None) -> None:
        """Send the content that the server waits for, and begin the following letter in the same write."""
        errand = self._ahead
        assert errand is not None
        self.risked, self._ahead, self.ready = errand, None, False
        self._expected.append((END_OF_DATA, errand))
        content = (errand.letter.head, errand.letter.rest, _DOT)
        self._content_end = self._queued + sum(map(len, content))
        self._write(b"".join((*content, self._prelude(following) if following else b"")))
        self._rearm()

    def act(self) -> bool:
        """Write and read what can be without waiting, and judge what the server said; past the deadline, give up.

        False once the connection is closed.
        """
        self._flush()
        try:
            while (octets := self._read()) is not None:
                self._replies.hear(octets)
                while self._is_open and (reply := self._replies.take()):
                    self._hear(*reply)
                if self._is_open and not octets:
                    self._break(self._lost or ConnectionError())
                if len(octets) < _OCTETS and not isinstance(self.sock, SSLSocket):
                    break
        except OSError as error:
            self._break(self._lost or error)
        if self._is_open and self._lost:
            self._break(self._lost)
        if self._is_open and self.deadline <= monotonic() and self._awaited == self._waiting():
            self._break(TimeoutError())
        self._rearm()
        return self._is_open

    def _prelude(self, errand: Errand) -> bytes:
        """Say, or prepare to say, that a letter comes; returns what goes out at once."""
        letter = errand.letter
        size = f" SIZE={letter.size}" if self.session.has_extn("size") else ""
        utf8 = " BODY=8BITMIME SMTPUTF8" if letter.smtputf8 else ""
        commands = [
            ("MAIL", f"MAIL FROM:<{letter.sender}>{size}{utf8}\r\n".encode()),
            ("RCPT", f"RCPT TO:<{letter.recipient}>\r\n".encode()),
            ("DATA", b"DATA\r\n"),
        ]
        if self._unclean:
            commands.insert(0, ("RSET", b"RSET\r\n"))
            self._unclean = False
        self._ahead, self._refused = errand, False
        if not self.pipelining:
            self._unsaid.extend(commands)
            return self._next_command()
        self._expected.extend((phase, errand) for phase, _ in commands)
        return b"".join(command for _, command in commands)

    def _next_command(self) -> bytes:
        if not self._unsaid:
            return b""
        phase, command = self._unsaid.popleft()
        self._expected.append((phase, self._ahead))
        return command

    def _hear(self, code: int, words: bytes) -> None:
        self._heard += 1
        phase, errand = self._expected.popleft() if self._expected else ("MAIL", None)
        if errand and code == 250 and self.pipelining and phase in ("MAIL", "RCPT"):
            self.proven = True
            return
        text = words.decode(errors="replace")
        as_wanted = code // 100 == (3 if phase == "DATA" else 2)
        if phase == END_OF_DATA and self._taken < self._content_end:
            # An answer to half a content ends the connection, whatever it is: the rest would be taken for commands.
            self._break(None, (phase, errand), Failure("DATA" if code < 400 else phase, code, text))
        elif code == 421 or not (as_wanted or code >= 400) or (phase, errand) == ("MAIL", None):
            self._break(None, (phase, errand), Failure(phase, code, text))
        elif as_wanted:
            self.proven = True
            self._go_on(phase, errand, f"{code} {text}")
        elif phase == "RSET":
            self._break(None, (phase, errand), Failure(phase, code, text))
        else:
            self.proven = True
            self._refuse(phase, errand, Failure(phase, code, text))

    def _go_on(self, phase: str, errand: Errand | None, words: str) -> None:
        if phase == END_OF_DATA:
            self.risked, self._unclean = None, self._unclean and errand is None
            if errand:
                self.told.append((errand, words))
        elif phase == "DATA":
            if self._refused:
                # The server wants a content for nobody: RFC 2920, 3.1 has the client send an empty one.
                self._ahead, self._refused = None, False
                self._expected.append((END_OF_DATA, None))
                self._content_end = self._queued + len(_DOT)
                self._write(_DOT)
            else:
                self.ready = True
        elif not self.pipelining:
            self._write(self._next_command())

    def _refuse(self, phase: str, errand: Errand | None, failure: Failure) -> None:
        """Take a refusal. With PIPELINING the answers to the letter's other commands are still to come."""
        self._unclean = self._unclean or phase != END_OF_DATA or self._ahead is None
        if phase == END_OF_DATA:
            self.risked = None
            if errand:
                self.told.append((errand, failure))
            return
        if errand and not self._refused:
            self.told.append((errand, failure))
        self._refused = True
        if phase == "DATA" or not self.pipelining:
            self._ahead, self._refused = None, False
            self._unsaid.clear()

    def _break(
        self, error: OSError | None, head: tuple[str, Errand | None] | None = None, failure: Failure | None = None
    ) -> None:
        """Close, and sort out the letters: `head` is the one that was to be answered, `failure` the answer if any."""
        self.session.close()
        phase, errand = head or (self._expected[0] if self._expected else ("MAIL", None))
        if phase == END_OF_DATA and self._taken < self._content_end:
            # The kernel has not taken the content's last octet, so the server never saw the final dot.
            phase = "DATA"
        failure = failure or Failure(phase, None, reason(error))
        if not self.proven and failure.code is None:
            self.refusal = failure
        ahead, refused = self._ahead, self._refused
        if errand and not (errand is ahead and refused):
            if phase in ("RSET", "MAIL") and self.proven:
                self._leave(errand, failure)
            else:
                self.told.append((errand, failure))
        if ahead and ahead is not errand and not refused:
            words = failure.words if failure.code is None else "connection closed"
            self._leave(ahead, Failure("DATA" if self.ready else "MAIL", None, words))
        self._ahead = self.risked = None
        self.ready = False
        self._expected.clear()
        self._queue.clear()

    def _leave(self, errand: Errand, failure: Failure) -> None:
        errand.moves += 1
        if errand.moves > _MOVES:
            self.told.append((errand, failure))
        else:
            self.left.append(errand)

    def _read(self) -> bytes | None:
        """Return what there is, empty at the end of the connection; None where there is nothing yet."""
        try:
            return self.sock.recv(_OCTETS) if self._is_open else None
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            return None

    def _write(self, octets: bytes) -> None:
        if octets:
            self._queue.append(memoryview(octets))
            self._queued += len(octets)
            self._flush()

    def _flush(self) -> None:
        try:
            while self._queue and not self._lost:
                view = self._queue[0]
                taken = self.sock.send(view)
                self._taken += taken
                if taken == len(view):
                    self._queue.popleft()
                else:
                    self._queue[0] = view[taken:]
        except (BlockingIOError, SSLWantReadError, SSLWantWriteError):
            pass
        except OSError as error:
            # What the server said before it left is still to be read.
            self._lost = error

    def _waiting(self) -> tuple[int, bool, bool]:
        return self._heard, self._taken < self._content_end, bool(self._expected)

    def _rearm(self) -> None:
        """Set the deadline anew whenever something else is waited for: a reply has one time-out, however it drips."""
        if self._lost and self._is_open:
            self.deadline = 0.0
        elif (waiting := self._waiting()) != self._awaited:
            self._awaited = waiting
            _, writing, expecting = waiting
            answer = expecting and not writing and self._expected[0][0] == END_OF_DATA
            patience = self.session.data_timeout if answer else self.session.timeout
            self.deadline = monotonic() + patience if expecting else inf
