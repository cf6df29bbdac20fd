"""Empty tasks through stock kombu on Redis, our transport on Redis, and RabbitMQ: throughput, idle latency, publishing.

Run from the repository's root: `python -m bench.transport [--runs 3] [--only throughput] [--shapes solo]`. Starts its
own servers on free ports and stops them. The cases are interleaved; the table shows medians, and the median ratio to
stock within a run. A run fails unless every message ran.
"""

import argparse
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from celery import Celery
from kombu import Queue
from kombu.transport import TRANSPORT_ALIASES

from tests.rabbit import RabbitServer, find_rabbitmq
from tests.servers import MissingServer, Process, RedisTestServer, wait_until

ROOT = Path(__file__).parent.parent
RECORD = struct.Struct("<qdd")  # number of the message, when it was published, when it ran

if os.environ.get("BENCH_TRANSPORT") == "ours":
    TRANSPORT_ALIASES["redis"] = "worker.redis_transport:Transport"

app = Celery("bench", broker=os.environ.get("BENCH_BROKER", "memory://"), set_as_current=False)
app.conf.update(
    task_acks_late=True,
    task_ignore_result=True,
    task_default_queue="work",
    task_queues=[Queue("work"), Queue("start", routing_key="start")],
    worker_prefetch_multiplier=int(os.environ.get("BENCH_PREFETCH", "4")),
    broker_connection_retry_on_startup=True,
)
_ran: list[int] = []


@app.task(name="empty")  # type: ignore[untyped-decorator]
def empty(number: int, published: float) -> None:
    """Do nothing but leave a trace, by one short write."""
    if not _ran or _ran[0] != os.getpid():
        path = Path(os.environ["BENCH_FOLDER"]) / f"ran.{os.getpid()}"
        _ran[:] = [os.getpid(), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)]
    os.write(_ran[1], RECORD.pack(number, published, time.time()))


def ran(folder: Path) -> list[tuple[int, float, float]]:
    """What has run so far."""
    return [record for path in folder.glob("ran.*") for record in RECORD.iter_unpack(path.read_bytes())]


def count(folder: Path) -> int:
    """How many have run so far."""
    return sum(path.stat().st_size for path in folder.glob("ran.*")) // RECORD.size


def publish(broker: str, numbers: range, *, batch: bool) -> float:
    """Publish, by a process of its own transport; give the seconds it took."""
    began = time.perf_counter()
    with ExitStack() as stack:
        connection = stack.enter_context(app.connection_for_write(broker))
        producer = stack.enter_context(app.amqp.Producer(connection))
        if batch:
            stack.enter_context(producer.batch(max_size=1000))
        for number in numbers:
            empty.apply_async((number, time.time()), producer=producer, argsrepr="", kwargsrepr="")
    return time.perf_counter() - began


@contextmanager
def workers(
    folder: Path, case: "Case", queue: str, processes: int, options: list[str]
) -> Iterator[tuple[Celery, list[Process]]]:
    """Workers that consume from the queue `start` or `work`, and an app to control them."""
    env = {
        "BENCH_BROKER": case.url,
        "BENCH_TRANSPORT": case.transport,
        "BENCH_FOLDER": str(folder),
        "BENCH_PREFETCH": str(case.prefetch),
    }
    with ExitStack() as stack:
        started = []
        for number in range(processes):
            command = [sys.executable, "-m", "celery", "-A", "bench.transport", "worker", "-l", "ERROR", "-Q", queue]
            command += ["-n", f"w{number}@bench", "--without-gossip", "--without-mingle", *options]
            started.append(stack.enter_context(Process(command, folder / f"worker.{number}", env=env, cwd=ROOT)))
        boss = stack.enter_context(Celery("boss", broker=case.url, set_as_current=False))
        wait_until(lambda: len(boss.control.ping(timeout=1, limit=processes)) == processes, 30, "workers listen")
        yield boss, started
        for process in started:
            process.terminate(10)


class Case:
    """A broker, a transport and a prefetch multiplier."""

    def __init__(self, name: str, url: str, transport: str, prefetch: int = 4) -> None:
        self.name, self.url, self.transport, self.prefetch = name, url, transport, prefetch

    def throughput(self, tasks: int, processes: int, options: list[str]) -> float:
        """Tasks per second of ready workers that are told to begin on a full queue."""
        with tempfile.TemporaryDirectory() as name, self.full(Path(name), tasks, processes, options) as (boss, _):
            return tasks / self.run(Path(name), boss, tasks)

    @contextmanager
    def full(
        self, folder: Path, tasks: int, processes: int, options: list[str]
    ) -> Iterator[tuple[Celery, list[Process]]]:
        """Ready workers, and a full queue that they do not consume from yet."""
        with workers(folder, self, "start", processes, options) as started:
            publish(self.url, range(tasks), batch=True)
            yield started

    def run(self, folder: Path, boss: Celery, tasks: int) -> float:
        """Have them consume; gives the seconds until the last task has run."""
        began = time.time()
        boss.control.broadcast("add_consumer", {"queue": "work"})
        wait_until(lambda: count(folder) >= tasks, 120, f"{self.name}: all tasks run")
        records = ran(folder)
        assert set(range(tasks)) == {number for number, _, _ in records}, f"{self.name}: lost messages"
        return max(when for _, _, when in records) - began

    def latency(self, tasks: int, processes: int, options: list[str]) -> tuple[float, float]:
        """Milliseconds from publishing to running on idle workers: p50, p99."""
        with tempfile.TemporaryDirectory() as name, workers(Path(name), self, "work", processes, options):
            folder = Path(name)
            with app.connection_for_write(self.url) as connection, app.amqp.Producer(connection) as producer:
                for number in range(tasks):
                    empty.apply_async((number, time.time()), producer=producer)
                    time.sleep(0.02)
            wait_until(lambda: count(folder) >= tasks, 20, f"{self.name}: all tasks run")
            waited = sorted(when - published for _, published, when in ran(folder))
            return waited[len(waited) // 2] * 1000, waited[len(waited) * 99 // 100] * 1000

    def publishing(self, tasks: int, *, batch: bool) -> float:
        """Messages per second, from a process that uses this transport."""
        env = {**os.environ, "BENCH_BROKER": self.url, "BENCH_TRANSPORT": self.transport}
        call = f"from bench.transport import publish; print(publish({self.url!r}, range({tasks}), batch={batch}))"
        with app.connection_for_write(self.url) as connection:
            seconds = subprocess.run(
                [sys.executable, "-c", call], env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE
            )
            purged = connection.default_channel.queue_purge("work")
        assert tasks == purged, f"{self.name}: {purged} of {tasks} were published"
        return tasks / float(seconds.stdout)


SHAPES = {
    "1 solo": (1, ["-P", "solo", "-c", "1"]),
    "prefork -c4": (1, ["-c", "4"]),
    "4 solo": (4, ["-P", "solo", "-c", "1"]),
}


Results = dict[str, list[tuple[float, ...]]]


def measure(cases: list[Case], runs: int, what: Callable[[Case], float | tuple[float, ...]]) -> Results:
    """Run the cases in turn, several times."""
    results: Results = {case.name: [] for case in cases}
    for _ in range(runs):
        for case in cases:
            value = what(case)
            results[case.name].append(value if isinstance(value, tuple) else (value,))
    return results


def show(title: str, results: Results) -> None:
    """Print medians, and the median ratio to the first case."""
    print(f"\n{title}")
    first = next(iter(results.values()))
    for name, values in results.items():
        medians = [statistics.median(column) for column in zip(*values, strict=True)]
        ratio = statistics.median(value[0] / base[0] for value, base in zip(values, first, strict=True))
        print(f"  {name:28} {'  '.join(f'{median:10.2f}' for median in medians)}   x{ratio:.2f}", flush=True)


def throughputs(cases: list[Case], runs: int, tasks: int, shapes: str) -> None:
    """Tasks per second; fewer tasks for the slow ones."""
    for shape, (processes, options) in SHAPES.items():
        if shapes in shape:

            def one(case: Case, processes: int = processes, options: list[str] = options) -> float:
                return case.throughput(tasks // 4 if case.transport == "stock" else tasks, processes, options)

            show(f"tasks per second, {shape}", measure(cases, runs, one))


def latencies(cases: list[Case], runs: int) -> None:
    """Milliseconds from publishing to running on idle workers."""
    for shape, (processes, options) in SHAPES.items():

        def one(case: Case, processes: int = processes, options: list[str] = options) -> tuple[float, float]:
            return case.latency(200, processes, options)

        show(f"idle latency, ms, p50 and p99, {shape}", measure(cases, runs, one))


def publishing(cases: list[Case], runs: int) -> None:
    """Messages published per second."""
    show("published per second, one by one", measure(cases, runs, lambda case: case.publishing(3000, batch=False)))
    show("published per second, in batches", measure(cases, runs, lambda case: case.publishing(3000, batch=True)))


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--shapes", default="", help="only shapes with this in their name, such as 'solo'")
    parser.add_argument("--only", choices=["throughput", "latency", "publishing"])
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
        folder = Path(name)
        url = stack.enter_context(RedisTestServer(folder / "redis")).url
        few = [Case("stock, Redis", url, "stock"), Case("ours, Redis", url, "ours")]
        many = [
            Case(f"{kind}, Redis, prefetch {n}", url, kind, n) for n, kind in ((1, "ours"), (32, "stock"), (32, "ours"))
        ]
        with suppress(MissingServer):
            find_rabbitmq()
            (folder / "rabbitmq").mkdir()
            few.append(Case("RabbitMQ", stack.enter_context(RabbitServer(folder / "rabbitmq")).url, "stock"))
        if asked.only in (None, "throughput"):
            throughputs([*few, *many], asked.runs, asked.tasks, asked.shapes)
        if asked.only in (None, "latency"):
            latencies(few, asked.runs)
        if asked.only in (None, "publishing"):
            publishing(few, asked.runs)


if __name__ == "__main__":
    main()
