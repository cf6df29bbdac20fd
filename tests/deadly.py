"""An event whose text may kill the process that renders or sends it, as a fault in a library of C would."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from jinja2.filters import FILTERS

from worker.channels import traffic
from worker.channels.mime import Letter, compose

POISON, ENDLESS, MAILED_POISON = "POISON", "ENDLESS", "MAILED POISON"

_EVENT = """
[fragile]
required = ["title"]
"""


def _deadly(value: str) -> str:
    if value == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    while value == ENDLESS:
        try:
            time.sleep(1)
        except BaseException:  # even the soft time limit
            continue
    return value


def _compose(parcel: Any, *args: Any) -> Letter | None:
    if MAILED_POISON in parcel.parts["subject"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return compose(parcel, *args)


def install() -> None:
    """Let templates use the filter, before the first one is loaded, and emails be written by the above."""
    FILTERS["deadly"] = _deadly
    traffic.compose = _compose  # type: ignore[attr-defined, assignment]


def add_event(folder: Path) -> None:
    """Write the event `fragile` beside the others of a catalogue."""
    with (folder / "config" / "events.toml").open("a", encoding="utf-8") as events:
        events.write(_EVENT)
    texts = folder / "templates" / "fragile" / "en"
    texts.mkdir(parents=True)
    for part in ("title.txt", "text.txt"):
        (texts / part).write_text("{{ title | deadly }}", encoding="utf-8")


install()
