"""Which folder the templates are in, which one their frame is in, and what a process has read of them."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from worker.events import get_events
from worker.settings import get_settings, shipped
from worker.styles import FRAMES, read_files


def templates_dir() -> Path:
    """The folder that holds one folder per event: TEMPLATES_DIR, else the working directory's, else the package's.

    The working directory's only where it is Bellhop's: an application may have a folder of that name for pages.
    """
    own = Path.cwd() / "templates"
    return get_settings().templates_dir or (own if _is_ours(own) else shipped("templates"))


def _is_ours(folder: Path) -> bool:
    """Whether it holds a frame, or a text of an event that there is. Raises InvalidEventConfig."""
    if not folder.is_dir():
        return False
    parts = ((folder / name).glob(f"*/{part}") for name in get_events() for part in ("title.txt", "text.txt"))
    return _has_frame(folder) or any(True for found in parts for _ in found)


def _has_frame(folder: Path) -> bool:
    return any((folder / name).is_file() for name in FRAMES)


def frame_dir(folder: Path) -> Path:
    """The templates folder whose `_layout` is the frame of emails: this one, or the package's where it has none."""
    return folder if _has_frame(folder) else shipped("templates")


@lru_cache(maxsize=1)
def texts() -> Mapping[str, bytes]:
    """The files of the templates folder as they were at the first call; a worker calls it before it has any process.

    With those of the package's frame where the folder has none. Raises InvalidSettings and InvalidEventConfig.
    """
    folder = templates_dir()
    found = read_files(folder)
    if (home := frame_dir(folder)) != folder:
        found |= {f"_layout/{name}": content for name, content in read_files(home / "_layout").items()}
    return found
