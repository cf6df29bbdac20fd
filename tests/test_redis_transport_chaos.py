"""Nothing is lost and no worker ends, whoever is killed: our transport with real workers, and stock kombu's faults."""

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos_transport import ROUNDS, Chaos, Proxy, hurried
from tests.servers import wait_until

pytestmark = pytest.mark.chaos

SOLO, THREADS, PREFORK = ("-P", "solo", "-c", "1"), ("-P", "threads", "-c", "4"), ("-P", "prefork", "-c", "4")

long = pytest.mark.skipif(not ROUNDS, reason="minutes; with CHAOS_ROUNDS=1 or more")


@pytest.fixture
def chaos(tmp_path: Path) -> Iterator[Chaos]:
    """The private Redis and its account."""
    with Chaos(tmp_path) as chaos:
        yield chaos


def wait_consuming(chaos: Chaos, count: int) -> None:
    """Wait until so many of our workers wait for notice."""
    wait_until(lambda: len(watchers(chaos)) >= count, 20, f"{count} workers wait: {watchers(chaos)}")


def watchers(chaos: Chaos) -> list[str]:
    """Ids of connections to which Redis gives notice."""
    return [str(client["id"]) for client in chaos.client.client_list() if "t" in client["flags"]]


def test_loaded_workers_killed_at_any_moment(chaos: Chaos) -> None:
    """Workers under load are killed at once, at any moment, several times over: every message is somewhere."""
    chance = random.Random(1)
    pools = (SOLO, SOLO, PREFORK, THREADS) if ROUNDS else (SOLO, PREFORK)
    for _ in range(ROUNDS or 1):
        enough = len(chaos.done()) + chance.randrange(50, 1000)
        workers = [chaos.start("ours", *options, prefetch=8) for options in pools]
        wait_consuming(chaos, len(workers))
        chaos.publish(2000)
        wait_until(lambda enough=enough: len(chaos.done()) > enough, 20, "they work")  # type: ignore[misc]
        for worker in workers:
            worker.kill_group(signal.SIGKILL)
        assert not chaos.lost()
    assert chaos.unacked(), "they were killed with messages in their hands"


@long
def test_redis_is_killed_and_comes_back(chaos: Chaos) -> None:
    """Our workers go on by themselves, as the same processes and with every message."""
    workers = [chaos.start("ours", *options, visibility=3) for options in (SOLO, THREADS, PREFORK)]
    wait_consuming(chaos, 3)
    chaos.publish(600, seconds=0.02)
    wait_until(lambda: len(chaos.done()) > 60 and len(chaos.unacked()) > 10, 20, "they work")
    chaos.redis.kill()
    held = len(chaos.done())
    chaos.redis.start()
    chaos.client = chaos.redis.server.client()
    chaos.wait_done(40, *workers)
    assert len(chaos.done()) > held
    assert [None] * 3 == [worker.returncode() for worker in workers]
    for worker in workers:
        worker.terminate()


@long
@pytest.mark.parametrize("pools", [(SOLO, THREADS, THREADS), (PREFORK, PREFORK)], ids=["in-process", "prefork"])
def test_terminated_under_load(chaos: Chaos, pools: tuple[tuple[str, ...], ...]) -> None:
    """SIGTERM: running tasks end, and the rest goes back at once, beside a worker that goes on."""
    workers = [chaos.start("ours", *options, prefetch=8) for options in pools]
    wait_consuming(chaos, len(pools))
    chaos.publish(3000, seconds=0.01)
    wait_until(lambda: len(chaos.done()) > 300, 20, "they work")
    for some in (workers[1:], workers[:1]):
        for worker in some:
            os.kill(worker.pid, signal.SIGTERM)
        # Now and then one of billiard's children waits 30 s for its last result to be read, also with stock kombu.
        assert [0] * len(some) == [worker.wait(45) for worker in some]
    assert not chaos.unacked()
    assert not chaos.lost()
    if PREFORK not in pools:
        assert {1} == set(chaos.done().values())


def test_a_solo_worker_heeds_sigterm_between_tasks(chaos: Chaos) -> None:
    """A worker that has taken fifty messages for its one process ends after the task that runs, and gives them back."""
    worker = chaos.start("ours", *SOLO, prefetch=50)
    wait_consuming(chaos, 1)
    chaos.publish(1000, seconds=0.1)
    wait_until(lambda: len(chaos.unacked()) > 20, 10, "it has taken many")
    before = len(chaos.done())
    os.kill(worker.pid, signal.SIGTERM)
    assert 0 == worker.wait(10)
    assert len(chaos.done()) <= before + 3
    assert not chaos.unacked()
    assert not chaos.lost()


@long
@pytest.mark.parametrize(("first", "second"), [("ours", "stock"), ("stock", "ours")])
def test_each_kind_restores_what_the_other_held(chaos: Chaos, first: str, second: str) -> None:
    """Both kinds work on the same queues and priorities; one is killed with messages, the other runs them."""
    doomed = chaos.start(first, *PREFORK, prefetch=2)
    chaos.publish(8, seconds=60, priorities=(0, 9))
    wait_until(lambda: len(chaos.unacked()) == 8, 20, "it holds all messages")
    doomed.kill_group()
    # The tasks as they were told would take too long for the heir; it gets them as they would be without waiting.
    for tag, record in chaos.client.hgetall("unacked").items():
        chaos.client.hset("unacked", tag, hurried(record))
    heir = chaos.start(second, *PREFORK, visibility=1)
    chaos.publish(200, priorities=(0, 3, 9))
    chaos.wait_done(20, heir)
    assert not chaos.lost()


@long
def test_both_kinds_share_a_load(chaos: Chaos) -> None:
    """A stock worker and ours take from the same queues: each message runs once, and nothing is left."""
    workers = [chaos.start("stock", *SOLO), chaos.start("ours", *SOLO), chaos.start("ours", *PREFORK)]
    chaos.publish(800, priorities=(0, 3, 6, 9))
    chaos.wait_done(40, *workers)
    for worker in workers:
        worker.terminate()
    assert {1} == set(chaos.done().values())
    assert not chaos.unacked()


@long
def test_a_half_open_connection_loses_nothing(chaos: Chaos) -> None:
    """The network swallows what the worker and Redis say: the worker finds out, connects anew, and runs everything."""
    with Proxy(chaos.redis.port) as proxy:
        url = chaos.redis.url.replace(str(chaos.redis.port), str(proxy.port))
        worker = chaos.start("ours", *SOLO, visibility=2, url=url)
        wait_consuming(chaos, 1)
        proxy.freeze()
        chaos.publish(20)
        chaos.wait_done(30, worker)
        assert worker.returncode() is None
        worker.terminate()


@long
def test_what_redis_may_do_to_a_worker(chaos: Chaos) -> None:
    """FLUSHALL, closed connections, and a Redis that refuses writes: the worker goes on when it can, by itself."""
    worker = chaos.start("ours", *PREFORK, visibility=2)
    wait_consuming(chaos, 1)

    def works() -> None:
        chaos.publish(50)
        chaos.wait_done(20, worker)
        assert worker.returncode() is None

    chaos.client.flushall()
    works()
    chaos.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    works()
    chaos.publish(200, seconds=0.05)
    chaos.client.config_set("min-replicas-to-write", 1)
    wait_until(lambda: "Redis refused" in worker.log_text(), 10, "Redis refuses")
    chaos.client.config_set("min-replicas-to-write", 0)
    works()
    chaos.client.script_flush()
    works()
    worker.terminate()
