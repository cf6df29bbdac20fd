"""A mail server in a process of its own: it writes each mail it accepts to a ledger before it says so.

`python -m tests.chaos.mail PORT LEDGER MOOD`. The file MOOD is read at every mail: when empty it is taken; `hang up`:
taken, and the connection ends before the answer; anything else is the answer that refuses its recipient. A line of the
ledger is a Message-ID and a recipient.
"""

import asyncio
import sys
from email import message_from_bytes, policy
from pathlib import Path
from typing import NamedTuple

from worker.embedded.place import HOST

HANG_UP = "hang up"


class Mail(NamedTuple):
    """A mail that the server accepted."""

    message_id: str
    address: str


def read_ledger(path: Path) -> list[Mail]:
    """Give every accepted mail; a line that is not whole was not answered yet."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [Mail(*line.split(" ")) for line in lines]


class _Server:
    def __init__(self, ledger: Path, mood: Path) -> None:
        self._ledger = ledger.open("a")
        self._mood = mood

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"220 chaos\r\n")
            await self._converse(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address = ""
        while line := (await reader.readline()).decode(errors="replace").strip():
            verb = line.partition(" ")[0].upper()
            answer = "250 ok"
            if verb == "EHLO":
                answer = "250-chaos\r\n250-PIPELINING\r\n250 SMTPUTF8"
            elif verb == "RCPT":
                address = line.partition("<")[2].partition(">")[0]
                mood = self._mood.read_text()
                answer = mood if mood not in ("", HANG_UP) else answer
            elif verb == "DATA":
                writer.write(b"354 go on\r\n")
                self._keep(await reader.readuntil(b"\r\n.\r\n"), address)
                if self._mood.read_text() == HANG_UP:
                    return
            elif verb == "QUIT":
                answer = "221 bye"
            writer.write(f"{answer}\r\n".encode())
            if verb == "QUIT":
                return

    def _keep(self, content: bytes, address: str) -> None:
        message_id = message_from_bytes(content, policy=policy.default)["Message-ID"]
        self._ledger.write(f"{message_id} {address}\n")
        self._ledger.flush()


async def _main(port: int, ledger: Path, mood: Path) -> None:
    server = await asyncio.start_server(_Server(ledger, mood).serve, HOST, port, limit=2**20)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])))
