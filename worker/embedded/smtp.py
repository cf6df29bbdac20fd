"""A mail catcher: an SMTP server on this machine that keeps every mail as a file and passes none on.

`python -m worker.embedded.smtp --folder FOLDER --port PORT` runs it as a process, until SIGTERM or Ctrl-C.
"""

import argparse
import asyncio
import os
import re
import signal
import socket
import tempfile
from collections.abc import Awaitable
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from worker.embedded.place import HOST, private_folder
from worker.errors import BellhopError

SIZE_LIMIT_BYTES = 32 * 1024 * 1024


class _Controller(Controller):
    """Listens on a socket that is already bound: aiosmtpd takes no port 0, and reports a taken port after 5 s only."""

    def __init__(self, catcher: "MailCatcher", listener: socket.socket) -> None:
        options: dict[str, Any] = {"data_size_limit": SIZE_LIMIT_BYTES, "enable_SMTPUTF8": True}
        # Without a name of ours aiosmtpd asks DNS for one, for seconds where there is none.
        super().__init__(catcher, hostname=HOST, port=catcher.port, server_hostname="localhost", **options)
        self._listener = listener

    def _create_server(self) -> Awaitable[asyncio.AbstractServer]:
        return self.loop.create_server(self._factory_invoker, sock=self._listener)


class MailCatcher:
    """Accepts every mail for every address, SMTPUTF8 (RFC 6531) included, up to 32 MiB.

    Each becomes `NNNN-<first address>.eml` in the folder, numbered in order of arrival, on from those already there.
    A file appears complete or not at all, and before the sender gets its 250.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        """`port` 0: a free one, known once started."""
        self.folder = private_folder(folder)
        self.port = port
        self._controller: _Controller | None = None
        self._last = max((int(path.name.partition("-")[0]) for path in self._files()), default=0)

    @property
    def url(self) -> str:
        """Give the SMTP_URL that leads here: no TLS, no login."""
        return f"smtp://{HOST}:{self.port}?tls=none"

    def start(self) -> Self:
        """Listen. Raises BellhopError when the port is taken."""
        try:
            listener = socket.create_server((HOST, self.port))
        except OSError as error:
            raise BellhopError(f"The mail catcher cannot listen on port {self.port}: {error.strerror}") from None
        self.port = listener.getsockname()[1]
        self._controller = _Controller(self, listener)
        self._controller.start()
        return self

    def stop(self) -> None:
        """Stop listening; nothing happens when it does not listen."""
        if self._controller:
            self._controller.stop()
            self._controller = None

    def messages(self) -> list[EmailMessage]:
        """Parse the kept mails, in order of arrival."""
        return [message_from_bytes(path.read_bytes(), policy=policy.default) for path in sorted(self._files())]

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """Keep the mail (aiosmtpd's hook; runs in the server's own thread, one mail at a time)."""
        content = envelope.content or b""
        self._keep(content if isinstance(content, bytes) else content.encode(), envelope.rcpt_tos[0])
        return "250 2.0.0 Kept"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _files(self) -> list[Path]:
        return list(self.folder.glob("[0-9][0-9][0-9][0-9]*-*.eml"))

    def _keep(self, content: bytes, address: str) -> None:
        self._last += 1
        safe = re.sub(r"[^A-Za-z0-9@._+-]", "_", address)[:100]
        handle, partial = tempfile.mkstemp(dir=self.folder, suffix=".partial")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(partial).rename(self.folder / f"{self._last:04}-{safe}.eml")


def main() -> None:
    """Catch mails until SIGTERM or Ctrl-C; prints the SMTP_URL first."""
    parser = argparse.ArgumentParser(prog="python -m worker.embedded.smtp", description="Keep every mail as a file.")
    parser.add_argument("--folder", type=Path, required=True, help="where the .eml files go")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1; 0: a free one")
    arguments = parser.parse_args()
    signals = {signal.SIGTERM, signal.SIGINT}
    # Blocked before the server's thread starts, so that the signal can only arrive here.
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    with MailCatcher(arguments.folder, arguments.port) as catcher:
        print(catcher.url, flush=True)
        signal.sigwait(signals)


if __name__ == "__main__":
    main()
