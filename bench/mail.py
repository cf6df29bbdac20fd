"""Mails per second: our channel, the hand-written way and a C client, to the same sink with the same mails.

    python -m bench.mail [--mails 5000] [--runs 3] [--sessions 1,4,20] [--delay-ms 10]

Needs Postfix's smtp-sink and smtp-source (Debian: apt-get install postfix). Every contender's mails are counted by the
sink; a run that lacks one fails. Through a proxy of our own that holds every octet back for half of the delay, the
round trip is as long as on a network.
"""

import argparse
import asyncio
import contextlib
import os
import re
import shutil
import smtplib
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from statistics import median
from uuid import uuid4

from pydantic import SecretStr
from rich.console import Console
from rich.table import Table

from worker.channels import Parcel
from worker.channels.email import EmailChannel
from worker.embedded.place import HOST, free_port
from worker.settings import Settings

SUBJECT, TEXT = "Dune is here", "Hello,\n\n" + "The book that you asked for is here. " * 20 + "\n"
HTML = "<p>Hello,</p>" + "<p>The book that you asked for is here.</p>" * 40


class Sink:
    """Postfix's smtp-sink; counts what it took."""

    def __enter__(self) -> "Sink":
        self.port = free_port()
        user = ["-u", "nobody"] if os.geteuid() == 0 else []
        command = ["smtp-sink", *user, "-c", f"{HOST}:{self.port}", "1000"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)
        self._count, self._lock = 0, threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()
        self._wait_open()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()

    def _wait_open(self) -> None:
        for _ in range(200):
            with contextlib.suppress(OSError), smtplib.SMTP(HOST, self.port, timeout=2):
                return
            time.sleep(0.02)
        raise SystemExit("smtp-sink did not start")

    def _read(self) -> None:
        assert self._process.stdout is not None
        text = ""
        while octets := os.read(self._process.stdout.fileno(), 65536):
            text = (text + octets.decode())[-4096:]
            for found in re.finditer(r"mesg=(\d+)", text):
                self._count = int(found[1])

    def taken(self, at_least: int) -> int:
        """How many mails it has taken, once there are so many or a second has passed."""
        deadline = time.monotonic() + 1
        while self._count < at_least and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._count


class Delay:
    """A proxy that holds every octet back for so many seconds, each way."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port, self._to, self._seconds = free_port(), port, seconds
        self._loop = asyncio.new_event_loop()
        self._open = threading.Event()

    def __enter__(self) -> "Delay":
        threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        self._open.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)

    async def _serve(self) -> None:
        self._over = asyncio.Event()
        async with await asyncio.start_server(self._connect, HOST, self.port):
            self._open.set()
            await self._over.wait()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(HOST, self._to)
        await asyncio.gather(self._pass(reader, there[1]), self._pass(there[0], writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while octets := await reader.read(65536):
                loop.call_later(self._seconds, writer.write, octets)
        loop.call_later(self._seconds, writer.close)


def parcels(count: int) -> Iterator[Parcel]:
    parts, key, now = {"subject": SUBJECT, "text": TEXT, "html": HTML}, uuid4(), datetime.now(UTC)
    for number in range(count):
        yield Parcel(uuid4(), f"reader{number}@example.org", "en", parts, now, content_key=key)


def bellhop(port: int, count: int, sessions: int) -> None:
    url = SecretStr(f"smtp://{HOST}:{port}?tls=none")
    channel = EmailChannel.from_settings(Settings(smtp_url=url, smtp_connections=sessions))
    outcomes = [outcome for group in channel.send(parcels(count)) for outcome in group]
    channel.close()
    assert {"sent"} == {outcome.verdict for outcome in outcomes}


def hand_written(port: int, count: int, _sessions: int) -> None:
    for parcel in parcels(count):
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = "Library <library@example.org>", parcel.address, SUBJECT
        message.set_content(TEXT)
        message.add_alternative(HTML, subtype="html")
        with smtplib.SMTP(HOST, port) as server:
            server.send_message(message)


def smtp_source(port: int, count: int, sessions: int) -> None:
    size = str(len(TEXT) + len(HTML) + 800)
    arguments = ["-s", str(sessions), "-m", str(count), "-l", size, "-d", "-f", "a@example.org", "-t", "b@example.org"]
    subprocess.run(["smtp-source", *arguments, f"{HOST}:{port}"], check=True)


def rate(sink: Sink, way: Callable[[int, int, int], None], port: int, count: int, sessions: int) -> float:
    """Mails per second of one run."""
    before = sink.taken(0)
    started = time.perf_counter()
    way(port, count, sessions)
    took = time.perf_counter() - started
    arrived = sink.taken(before + count) - before
    if arrived != count:
        raise SystemExit(f"{way.__name__}: {arrived} of {count} mails arrived")
    return count / took


def compare(sink: Sink, port: int, mails: int, runs: int, sessions: list[int], delay_ms: float) -> Table:
    """Interleaved, so that whatever else the machine does hits all alike."""
    table = Table("", "sessions", "ours /s", "hand-written /s", "smtp-source /s", "ours : hand-written", "C : ours")
    slow = max(20, mails // 20) if not delay_ms else 20
    for number in sessions:
        count = mails if not delay_ms else min(mails, 100 * number)
        found: dict[str, list[float]] = {"ours": [], "hand": [], "c": []}
        for _ in range(runs):
            found["ours"].append(rate(sink, bellhop, port, count, number))
            found["hand"].append(rate(sink, hand_written, port, slow, 1))
            found["c"].append(rate(sink, smtp_source, port, count, number))
        ours, hand, c = (median(found[name]) for name in ("ours", "hand", "c"))
        where = f"{delay_ms:g} ms" if delay_ms else "loopback"
        table.add_row(
            where, str(number), f"{ours:.0f}", f"{hand:.0f}", f"{c:.0f}", f"{ours / hand:.1f}", f"{c / ours:.2f}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mails", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sessions", default="1,4,20")
    parser.add_argument("--delay-ms", type=float, default=10)
    options = parser.parse_args()
    if not shutil.which("smtp-sink") or not shutil.which("smtp-source"):
        sys.exit("smtp-sink and smtp-source are missing (Debian: apt-get install postfix)")
    sessions = [int(number) for number in options.sessions.split(",")]
    with Sink() as sink:
        Console().print(compare(sink, sink.port, options.mails, options.runs, sessions, 0))
        if options.delay_ms:
            with Delay(sink.port, options.delay_ms / 2000) as delay:
                Console().print(compare(sink, delay.port, options.mails, options.runs, sessions, options.delay_ms))


if __name__ == "__main__":
    main()
