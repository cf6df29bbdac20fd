"""An SMTP server that takes every mail and remembers for whom and when: `python -m bench.sink PORT DELAY FOLDER`.

In Python's own library, one process of several that share a port. Mails are written down as lines of `seconds address`
when SIGUSR1 asks for them; SIGUSR2 forgets them. `DELAY` is a round trip in seconds: every answer comes so much later,
and the greeting twice as much, for the handshake of TCP that it stands for.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path

HOST = "127.0.0.1"
EHLO = b"250-sink\r\n250-PIPELINING\r\n250-SIZE 50000000\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"
END = b"\r\n.\r\n"

mails: list[tuple[float, bytes]] = []


class Dialogue(asyncio.Protocol):
    """One connection."""

    delay = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.pending = b""
        self.in_content = False
        self.recipients: list[bytes] = []
        self.later(2 * self.delay, transport.write, b"220 sink ESMTP\r\n")

    def later(self, delay: float, call: object, *args: object) -> None:
        """Call after the delay, at once where there is none."""
        if delay:
            asyncio.get_running_loop().call_later(delay, call, *args)  # type: ignore[arg-type]
        else:
            call(*args)  # type: ignore[operator]

    def data_received(self, data: bytes) -> None:
        """Understand it, a round trip later."""
        self.later(self.delay, self.understand, data)

    def understand(self, data: bytes) -> None:
        """Answer all the commands that are whole; forget content as it comes."""
        pending, at, answers = self.pending + data if self.pending else data, 0, []
        while True:
            if self.in_content:
                end = pending.find(END, max(at - 2, 0))
                if end < 0:
                    at = max(at, len(pending) - 4)
                    break
                at, self.in_content = end + 5, False
                now = time.time()
                mails.extend((now, address) for address in self.recipients)
                answers.append(b"250 ok\r\n")
                continue
            end = pending.find(b"\r\n", at)
            if end < 0:
                break
            answers.append(self.command(pending[at:end]))
            at = end + 2
        self.pending = pending[at:]
        if answers and not self.transport.is_closing():
            self.transport.write(b"".join(answers))
            if answers[-1].startswith(b"221"):
                self.transport.close()

    def command(self, line: bytes) -> bytes:
        """Answer one command."""
        verb = line[:4].upper()
        if verb == b"RCPT":
            self.recipients.append(line[line.find(b"<") + 1 : line.find(b">")])
        elif verb == b"MAIL":
            self.recipients = []
        elif verb == b"DATA":
            self.in_content = True
            return b"354 go on\r\n"
        elif verb == b"EHLO":
            return EHLO
        elif verb == b"QUIT":
            return b"221 bye\r\n"
        return b"250 ok\r\n"


def write_down(folder: Path) -> None:
    """Write what has arrived to a file that appears whole."""
    part = folder / f"{os.getpid()}.part"
    part.write_bytes(b"".join(b"%.6f %s\n" % mail for mail in mails))
    part.rename(folder / f"{os.getpid()}.mails")


async def serve(port: int, delay: float, folder: Path) -> None:
    """Serve until SIGTERM."""
    Dialogue.delay = delay
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((HOST, port))
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, write_down, folder)
    loop.add_signal_handler(signal.SIGUSR2, mails.clear)
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(Dialogue, sock=listener, backlog=500)
    (folder / f"{os.getpid()}.ready").touch()
    await ended.wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
