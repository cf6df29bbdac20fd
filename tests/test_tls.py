"""Redis and PostgreSQL with TLS and a password, by the settings alone; the mail server's are in test_smtp.py."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import OperationalError

from tests.servers import PostgresServer, RedisTestServer, free_port, wait_until
from worker.celery import make_app
from worker.database import make_engine
from worker.settings import Settings

PASSWORD = "a%40b"  # `a@b`


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def write_pems(authority: trustme.CA, folder: Path) -> tuple[Path, Path, Path]:
    """Give the files of the authority, the server's certificate and its key."""
    files = folder / "ca.pem", folder / "server.pem", folder / "server.key"
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(files[0]))
    certificate.cert_chain_pems[0].write_to_path(str(files[1]))
    certificate.private_key_pem.write_to_path(str(files[2]))
    return files


def test_redis_with_tls_and_a_password(authority: trustme.CA, tmp_path: Path) -> None:
    """A message is published; not without the password, and not to a server of another authority."""
    ca, certificate, key = write_pems(authority, tmp_path)
    (tmp_path / "other").mkdir()
    other, _, _ = write_pems(trustme.CA(), tmp_path / "other")
    tls = ["--tls-port", str(port := free_port()), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    tls += ["--tls-ca-cert-file", str(ca), "--tls-auth-clients", "no"]

    def publish(login: str, trusted: Path) -> None:
        url = f"rediss://{login}localhost:{port}/0?ssl_cert_reqs=required&ssl_ca_certs={trusted}"
        app = make_app(Settings(broker_url=url))
        with app.connection_for_write() as connection, connection.channel() as channel:
            app.amqp.queues["inbox"].bind(channel).queue_declare()
        app.close()

    with RedisTestServer(tmp_path / "redis", appendonly=False, extra=tls) as server:
        with server.server.client() as client:
            client.execute_command("ACL SETUSER", "worker", "on", ">a@b", "~*", "&*", "+@all")
        publish(f"worker:{PASSWORD}@", ca)
        for login, trusted in (("worker:wrong@", ca), (f"worker:{PASSWORD}@", other)):
            with pytest.raises((AuthenticationError, RedisConnectionError), match=r"(?i)pass|certificate"):
                publish(login, trusted)


@pytest.fixture
def secure_postgres(postgres: PostgresServer, authority: trustme.CA, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The server of all tests, for a while with TLS, and with a user who must come by it and with a password."""
    ca, *pair = write_pems(authority, tmp_path)
    access = postgres.home / "data" / "pg_hba.conf"
    before = access.read_text()
    for file in pair:
        (postgres.home / "data" / file.name).write_bytes(file.read_bytes())
        owner = access.stat()
        os.chown(postgres.home / "data" / file.name, owner.st_uid, owner.st_gid)
        (postgres.home / "data" / file.name).chmod(0o600)
    access.write_text("hostssl all secure all scram-sha-256\nhost all secure all reject\n" + before)
    with postgres.connect() as connection:
        connection.execute("CREATE USER secure PASSWORD 'a@b'")
        for name, value in (("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key"), ("ssl", "on")):
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        connection.execute("SELECT pg_reload_conf()")
    wait_until(lambda: "on" == setting(postgres, "ssl"), 20, "the server has read its settings")
    yield postgres.port, ca
    access.write_text(before)
    with postgres.connect() as connection:
        connection.execute("ALTER SYSTEM RESET ALL")
        connection.execute("DROP USER secure")
        connection.execute("SELECT pg_reload_conf()")
    wait_until(lambda: "off" == setting(postgres, "ssl"), 20, "the server has read its settings again")


def setting(postgres: PostgresServer, name: str) -> str:
    """What a new connection finds: the server tells nobody when it has read its files."""
    with postgres.connect() as connection:
        [value] = connection.execute(f"SHOW {name}".encode()).fetchone() or [""]
    return str(value)


def test_postgresql_with_tls_and_a_password(secure_postgres: tuple[int, Path], tmp_path: Path) -> None:
    """`sslmode=verify-full` connects encrypted; not with a wrong password, another authority, or without TLS."""
    port, ca = secure_postgres
    (tmp_path / "other").mkdir()
    other, _, _ = write_pems(trustme.CA(), tmp_path / "other")

    def encrypted(password: str, options: str) -> bool:
        engine = make_engine(f"postgresql://secure:{password}@localhost:{port}/postgres?{options}")
        try:
            with engine.connect() as connection:
                return bool(
                    connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar_one()
                )
        finally:
            engine.dispose()

    verified = f"sslmode=verify-full&sslrootcert={ca}"
    assert encrypted(PASSWORD, verified)
    for password, options in (
        ("wrong", verified),
        (PASSWORD, f"sslmode=verify-full&sslrootcert={other}"),
        (PASSWORD, "sslmode=disable"),
    ):
        with pytest.raises(OperationalError):
            encrypted(password, options)
