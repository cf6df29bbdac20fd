"""What is done to a running system. Each hurt is one function; it ends with everything back in its place."""

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg

from tests.chaos.mail import HANG_UP
from tests.chaos.stage import LEASE_SECONDS, WORKERS, Stage
from tests.servers import wait_until

#: Seconds that a killed server stays away.
AWAY = 2
#: Seconds that a trouble lasts which leaves everybody running.
TROUBLE = 4


@dataclass(frozen=True)
class Hurt:
    """One row of the table."""

    name: str
    act: Callable[[Stage], None]
    broker: str = "redis"
    bellhop_only: bool = False
    broker_forgets: bool = False
    """The broker itself loses what it held: then a request that was given to it alone is not promised."""
    small_disk: bool = False
    proxied: bool = False


def nothing(_: Stage) -> None:
    """The row to compare with."""


def to_pool_children(number: int, rounds: int) -> Callable[[Stage], None]:
    """A signal to one child after another, of both workers."""

    def act(stage: Stage) -> None:
        for _ in range(rounds):
            for name in WORKERS:
                parent = stage.processes[name].pid
                children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(int(children[-1]), number)
                time.sleep(0.7)

    return act


def kill(*names: str, times: int = 1) -> Callable[[Stage], None]:
    """SIGKILL whole process groups; the supervisor starts them again."""

    def act(stage: Stage) -> None:
        for _ in range(times):
            for name in names:
                stage.processes[name].kill_group()
            wait_until(lambda: all(stage.processes[name].returncode() is None for name in names), 20, "started again")
            time.sleep(AWAY)

    return act


def terminate_workers(stage: Stage) -> None:
    """Both at once, as a careless deployment does."""
    for name in WORKERS:
        stage.processes[name].tell(signal.SIGTERM)
    time.sleep(AWAY)


def stop_a_worker(stage: Stage) -> None:
    """It wakes up when others have long taken over."""
    stopped = stage.processes[WORKERS[0]]
    stopped.kill_group(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS + 3)
    stopped.kill_group(signal.SIGCONT)


def restart_broker(stage: Stage) -> None:
    """SIGKILL, and back on the same files."""
    stage.broker.kill()
    time.sleep(AWAY)
    stage.broker.start()


def empty_broker(stage: Stage) -> None:
    """Whatever waits in it is gone."""
    stage.broker.empty()


def swallow(stage: Stage) -> None:
    """Connections stay open and nothing answers, for longer than anybody's patience."""
    assert stage.proxy
    stage.proxy.swallow()
    time.sleep(2 * LEASE_SECONDS)
    stage.proxy.forward()


def restart_postgres(stage: Stage) -> None:
    """SIGKILL of all its processes, and back on the same files."""
    stage.postgres.kill()
    time.sleep(AWAY)
    stage.postgres.start()


def cut_connections(stage: Stage) -> None:
    """Every connection, again and again."""
    until = time.monotonic() + TROUBLE
    with stage.postgres.connect() as connection:
        while time.monotonic() < until:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            time.sleep(0.3)


def fill_disk(stage: Stage) -> None:
    """Not a byte is left; later there is room again, and the server is started if it gave up."""
    filler = stage.postgres.home / "filler"
    with filler.open("wb", buffering=0) as file:
        until = time.monotonic() + TROUBLE
        while time.monotonic() < until:
            try:
                file.write(bytes(65536))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                time.sleep(0.05)
    filler.unlink()
    try:
        wait_until(lambda: _answers(stage), 5, "PostgreSQL answers")
    except AssertionError:
        stage.postgres.kill()
        stage.postgres.start()


def _answers(stage: Stage) -> bool:
    with contextlib.suppress(psycopg.Error):
        stage.postgres.connect().close()
        return True
    return False


def refuse_writes(sqlstate: str) -> Callable[[Stage], None]:
    """A third of all writing statements fails with this SQLSTATE."""

    def act(stage: Stage) -> None:
        with stage.postgres.connect() as connection:
            connection.execute(f"""
                CREATE TABLE trouble (share float);
                INSERT INTO trouble VALUES (0.3);
                CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                    IF random() < (SELECT share FROM trouble) THEN
                        RAISE EXCEPTION 'trouble' USING ERRCODE = '{sqlstate}';
                    END IF;
                    RETURN NULL;
                END $$""")
            tables = ("notifications", "deliveries", "requests") if stage.system == "bellhop" else ("notices", "orders")
            for table in tables:
                connection.execute(f"""
                    CREATE TRIGGER trouble AFTER INSERT OR UPDATE ON {table}
                    FOR EACH STATEMENT EXECUTE FUNCTION trouble()""")
            time.sleep(TROUBLE)
            connection.execute("UPDATE trouble SET share = 0")

    return act


def restart_mail(stage: Stage) -> None:
    """SIGKILL, and back."""
    stage.processes["mail"].kill_group()
    time.sleep(AWAY)
    stage.start_mail()


def stall_mail(stage: Stage) -> None:
    """It says nothing for longer than anybody waits, then goes on where it was."""
    stage.processes["mail"].kill_group(signal.SIGSTOP)
    time.sleep(LEASE_SECONDS)
    stage.processes["mail"].kill_group(signal.SIGCONT)


def mail_is(mood: str) -> Callable[[Stage], None]:
    """The mail server is in this mood for a while."""

    def act(stage: Stage) -> None:
        stage.mood.write_text(mood)
        time.sleep(TROUBLE)
        stage.mood.write_text("")

    return act


HURTS = [
    Hurt("nothing", nothing),
    Hurt("pool children: SIGKILL, 4 times", to_pool_children(signal.SIGKILL, 2)),
    Hurt("pool children: hung until they are killed for it", to_pool_children(signal.SIGSTOP, 1)),
    Hurt("both workers: SIGKILL, twice", kill(*WORKERS, times=2)),
    Hurt("both workers: SIGTERM", terminate_workers),
    Hurt("a worker: SIGSTOP, longer than the lease", stop_a_worker),
    Hurt("beat: SIGKILL", kill("beat"), bellhop_only=True),
    Hurt("Flower: SIGKILL", kill("flower"), bellhop_only=True),
    Hurt("Redis: SIGKILL, back after 2 s", restart_broker),
    Hurt("Redis: emptied", empty_broker, broker_forgets=True),
    Hurt("Redis: black-holed for 12 s", swallow, proxied=True),
    Hurt("RabbitMQ: SIGKILL, restarted", restart_broker, broker="rabbitmq"),
    Hurt("RabbitMQ: black-holed for 12 s", swallow, broker="rabbitmq", proxied=True),
    Hurt("on RabbitMQ, both workers: SIGKILL, twice", kill(*WORKERS, times=2), broker="rabbitmq"),
    Hurt("on RabbitMQ, PostgreSQL: SIGKILL, back after 2 s", restart_postgres, broker="rabbitmq"),
    Hurt("PostgreSQL: SIGKILL, back after 2 s", restart_postgres),
    Hurt("PostgreSQL: connections cut for 4 s", cut_connections),
    Hurt("PostgreSQL: disk full for 4 s", fill_disk, small_disk=True),
    Hurt("PostgreSQL: serialisation failures for 4 s", refuse_writes("40001")),
    Hurt("PostgreSQL: deadlocks for 4 s", refuse_writes("40P01")),
    Hurt("mail server: SIGKILL, back after 2 s", restart_mail),
    Hurt("mail server: stalled for 6 s", stall_mail),
    Hurt("mail server: hangs up after each mail, for 4 s", mail_is(HANG_UP)),
    Hurt("mail server: refuses for now (451) for 4 s", mail_is("451 4.3.2 later")),
    Hurt("mail server: refuses for good (550) for 4 s", mail_is("550 5.1.1 never")),
]
