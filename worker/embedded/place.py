"""Somewhere to run: a folder nobody else can read, a port nobody else listens on."""

import os
import secrets
import socket
from pathlib import Path

from worker.errors import BellhopError

HOST = "127.0.0.1"
#: Below those that Linux (from 32768) and macOS (from 49152) give to outgoing connections.
PORTS = range(20_000, 32_768)


def private_folder(folder: Path) -> Path:
    """Make the folder, readable by its owner alone (mode 0700), and return its absolute path.

    Raises BellhopError when it cannot be made, or exists and belongs to another account: its owner could read or
    replace what is inside.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BellhopError(f"{folder}: this folder cannot be made ({error.strerror}); choose another") from None
    if folder.stat().st_uid != os.geteuid():
        raise BellhopError(f"{folder} belongs to another account; choose a folder of your own")
    folder.chmod(0o700)
    return folder


def free_port() -> int:
    """Give a TCP port of 127.0.0.1 that nobody listens on now; another program may take it meanwhile.

    None of those that outgoing connections get: of these, one is taken now and then before it is used.
    """
    return next(port for port in (secrets.choice(PORTS) for _ in range(1000)) if is_free(port))


def is_free(port: int) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
