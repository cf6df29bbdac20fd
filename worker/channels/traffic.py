"""One call of `send`: its connections, and which letter goes over which."""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from time import monotonic
from typing import Protocol
from uuid import UUID

from worker.channels import Outcome, Parcel, Verdict
from worker.channels.dialogue import Dialogue, Errand
from worker.channels.mime import Sender, compose
from worker.channels.opening import Opening
from worker.channels.smtp import Failure
from worker.settings import Settings

_DETAIL = 300
"""Characters kept of what the server said."""
_ADDRESS = re.compile(r"""[^\s<>()\[\],;:"']*@[^\s<>(),;:"']+""")
_PROOF = 4
"""Letters begun per connection before a call opens another one."""
_MOMENT = 0.001
"""Seconds without any news after which known outcomes are told though contents are out; a selector knows no less."""
_PATIENCE = 0.02
"""Seconds that a known outcome waits for others at the most."""
_PAUSE = 0.02
"""Seconds until the next parcel is asked for again, where there was none at the moment."""


class Depot(Protocol):
    """Where the connections come from and go back to."""

    sender: Sender
    limits: Settings

    def take_idle(self) -> Dialogue | None:
        """Return one kept from an earlier call, if any."""
        ...

    def keep(self, dialogue: Dialogue) -> None:
        """Keep one at rest."""
        ...

    def connect(self) -> Dialogue:
        """Open one. Raises Failure."""
        ...


class Traffic:
    """Parcels become letters when a connection has room for them; outcomes are told in groups.

    All of it runs in the caller's thread, but for the opening of connections.
    """

    def __init__(self, depot: Depot, parcels: Iterable[Parcel | None]) -> None:
        self._depot, self._parcels = depot, iter(parcels)
        self._window, self._most = depot.limits.record_window, depot.limits.smtp_connections
        self._selector = DefaultSelector()
        self._opening: Opening | None = None
        self._dialogues: list[Dialogue] = []
        self._writing: set[Dialogue] = set()
        self._again: deque[Errand] = deque()
        self._written: dict[UUID, bytes] = {}
        self._outcomes: list[Outcome] = []
        self._known_until = inf
        self._begun = 0
        self._exhausted = False
        self._pause_until = 0.0
        self._pausing = False
        self._error: Exception | None = None
        self._refusal: Failure | None = None

    def outcomes(self) -> Iterator[Sequence[Outcome]]:
        """Carry everything; yield the outcomes as soon as they are known, those known together in one group."""
        sound = False
        try:
            while self._go_on():
                if self._is_group():
                    told, self._outcomes = self._outcomes, []
                    sound = True
                    yield told
                    sound = False
                elif not self._outcomes:
                    self._listen(None)
            sound = True
            if self._error:
                raise self._error
        except Exception:
            # Such as the task's time limit: what is known by then is told.
            if self._outcomes:
                yield self._outcomes
            raise
        finally:
            self._end(sound)

    def _go_on(self) -> bool:
        """Give every connection what it has room for; False when all is done and told."""
        risked, self._pausing = self._risked(), False
        for dialogue in self._dialogues:
            if dialogue.ready and len(self._outcomes) + risked < self._window:
                dialogue.carry(self._next(dialogue) if dialogue.pipelining else None)
                risked += 1
            elif dialogue.free and (errand := self._next(dialogue)):
                dialogue.begin(errand)
            else:
                continue
            self._watch(dialogue)
        self._add_connections()
        done = self._exhausted and not self._again and all(dialogue.at_rest for dialogue in self._dialogues)
        return bool(self._outcomes) or not done

    def _is_group(self) -> bool:
        """Whether the outcomes known now are told: nothing more comes at once, or the window is full."""
        if not self._outcomes:
            return False
        risked = self._risked()
        if not risked or len(self._outcomes) + risked >= self._window or monotonic() >= self._known_until:
            return True
        return not self._listen(_MOMENT)

    def _risked(self) -> int:
        return sum(dialogue.risked is not None for dialogue in self._dialogues)

    def _next(self, dialogue: Dialogue) -> Errand | None:
        while self._in_hand():
            errand = self._again.popleft()
            if failure := dialogue.refuses(errand.letter):
                self._tell(errand, failure)
            else:
                self._begun += 1
                return errand
        return None

    def _in_hand(self) -> bool:
        """Whether there is a letter that waits for a connection; takes the next parcel if there is none."""
        while not self._again and not self._exhausted and self._pause_until <= monotonic():
            try:
                parcel = next(self._parcels)
                letter = compose(parcel, self._depot.sender, self._written) if parcel else None
            except StopIteration:
                self._exhausted = True
            except Exception as error:
                # What is under way goes on to its outcome first.
                self._error, self._exhausted = error, True
            else:
                if parcel is None:
                    self._pause_until = monotonic() + _PAUSE
                elif letter is None:
                    self._add(Outcome(parcel.delivery_id, Verdict.PERMANENT, "address: malformed"))
                else:
                    self._again.append(Errand(parcel, letter))
        # Noted here: by the time of the wait the pause may be over, and nothing else would end that.
        self._pausing = self._pausing or not (self._again or self._exhausted)
        return bool(self._again)

    def _add_connections(self) -> None:
        """Take or open further connections, as far as there is something for them to carry."""
        while (connections := len(self._dialogues) + self._opens()) < self._most and self._in_hand():
            if dialogue := self._depot.take_idle():
                self._admit(dialogue)
                if errand := self._next(dialogue):
                    dialogue.begin(errand)
                    self._watch(dialogue)
            elif self._refusal:
                # One by one: who is told may not want to try the next.
                self._tell(self._again.popleft(), self._refusal)
                return
            elif connections == 0 or self._begun >= _PROOF * connections:
                self._open()
            else:
                return

    def _opens(self) -> int:
        return self._opening.count if self._opening else 0

    def _open(self) -> None:
        if self._opening is None:
            self._opening = Opening(self._depot.connect, self._depot.keep)
            self._selector.register(self._opening, EVENT_READ)
        self._opening.start()

    def _admit(self, dialogue: Dialogue) -> None:
        self._selector.register(dialogue.sock, EVENT_READ, dialogue)
        self._dialogues.append(dialogue)

    def _watch(self, dialogue: Dialogue) -> None:
        """Have the selector tell when the socket takes more, where there is more."""
        if dialogue.writing != (dialogue in self._writing):
            self._writing ^= {dialogue}
            events = EVENT_READ | (EVENT_WRITE if dialogue.writing else 0)
            self._selector.modify(dialogue.sock, events, dialogue)

    def _listen(self, seconds: float | None) -> bool:
        """Wait for news, so long, or until a deadline; says whether there was any."""
        if seconds is None:
            deadline = min((dialogue.deadline for dialogue in self._dialogues), default=inf)
            if self._pausing:
                deadline = min(deadline, self._pause_until)
            seconds = None if deadline == inf else max(0, deadline - monotonic())
        events = self._selector.select(seconds)
        for key, _ in events:
            if key.data:
                self._act(key.data)
            elif self._opening:
                for one in self._opening.take():
                    self._opened(one)
        now = monotonic()
        for dialogue in [dialogue for dialogue in self._dialogues if dialogue.deadline <= now]:
            self._act(dialogue)
        return bool(events)

    def _opened(self, one: Dialogue | Failure) -> None:
        if isinstance(one, Dialogue):
            self._admit(one)
        elif self._dialogues or self._opens():
            # Those that there are must do.
            self._most = len(self._dialogues) + self._opens()
        else:
            self._refusal = one

    def _act(self, dialogue: Dialogue) -> None:
        if dialogue not in self._dialogues:
            return
        sock = dialogue.sock
        if not dialogue.act():
            self._selector.unregister(sock)
            self._writing.discard(dialogue)
            self._dialogues.remove(dialogue)
            if not self._dialogues and not self._opens():
                self._refusal = self._refusal or dialogue.refusal
        else:
            self._watch(dialogue)
        for errand, what in dialogue.told:
            self._tell(errand, what)
        dialogue.told.clear()
        self._again.extendleft(dialogue.left)
        dialogue.left.clear()

    def _tell(self, errand: Errand, what: str | Failure) -> None:
        parcel = errand.parcel
        if isinstance(what, str):
            self._add(Outcome(parcel.delivery_id, Verdict.SENT, _without_address(what, parcel.address)))
            return
        code = "" if what.code is None else f"{what.code} "
        words = _without_address(f"{what.phase}: {code}{what.words}", parcel.address)
        self._add(Outcome(parcel.delivery_id, what.verdict, words, what.reached, what.no_such_address))

    def _add(self, outcome: Outcome) -> None:
        if not self._outcomes:
            self._known_until = monotonic() + _PATIENCE
        self._outcomes.append(outcome)

    def _end(self, sound: bool) -> None:
        """Keep the connections that are at rest. What broke off in the middle cannot be taken up again."""
        for dialogue in self._dialogues:
            if sound and dialogue.alive and dialogue.at_rest:
                self._depot.keep(dialogue)
            else:
                dialogue.session.close()
        if self._opening:
            self._opening.end()
        self._selector.close()


def _without_address(words: str, address: str) -> str:
    """Return the server's words on one line, with everything that looks like an address replaced."""
    line = words if words.isprintable() else "".join(char if char.isprintable() else " " for char in words)
    local = address.rpartition("@")[0]
    shortest = local.strip('"').partition("+")[0]
    if "@" in line or not shortest or shortest.lower() in line.lower():
        for name in filter(None, (address, local, local.strip('"'), local.partition("+")[0])):
            line = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<address>", line, flags=re.IGNORECASE)
        line = re.sub("<?(<address>)+>?", "<address>", _ADDRESS.sub("<address>", line))
    return " ".join(line.split())[:_DETAIL]
