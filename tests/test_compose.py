"""docker-compose.yml and Dockerfile say the same as the code."""

import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from celery.bin.celery import celery as celery_command
from pydantic import SecretStr

from worker.celery import app
from worker.settings import Settings

ROOT = Path(__file__).parent.parent
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
BELLHOP = {name: service for name, service in SERVICES.items() if service.get("image") == "bellhop-worker"}
INTERPOLATED = re.compile(r"(?<!\$)\$\{(?P<name>\w+)(?P<rule>[^}]*)\}|(?<!\$)\$(?P<bare>\w+)")

# Variables of the images we do not build; the rest are settings of Bellhop.
OF_OTHERS = {"POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "REDISCLI_AUTH", "FLOWER_BASIC_AUTH"}
SECRET = re.compile(r"PASSWORD|SECRET|AUTH|TOKEN|KEY")


def started(subcommand: str) -> dict[str, list[str]]:
    """The services that run `celery -A worker <subcommand>`, with the arguments after it."""
    commands = {name: service["command"] for name, service in BELLHOP.items() if service["command"][0] == "celery"}
    return {name: command[4:] for name, command in commands.items() if command[3] == subcommand}


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def consumed() -> dict[str, list[str]]:
    return {name: option(arguments, "-Q").split(",") for name, arguments in started("worker").items()}


def seconds(duration: str) -> int:
    assert re.fullmatch(r"\d+s", duration), "write durations in seconds"
    return int(duration[:-1])


def test_every_queue_is_consumed_by_one_service() -> None:
    """Each queue of the app is named by exactly one worker service, and no worker names an unknown one."""
    named = [queue for queues in consumed().values() for queue in queues]
    assert sorted(named) == sorted(queue.name for queue in app.conf.task_queues)


def test_exactly_one_beat_runs() -> None:
    """A second beat would send every periodic task twice; a container name forbids scaling."""
    beats = started("beat")
    assert len(beats) == 1
    assert all("container_name" in SERVICES[name] for name in beats)
    assert not any({"-B", "--beat"} & set(arguments) for arguments in started("worker").values())


@pytest.mark.parametrize("name", sorted(set(BELLHOP) - {"init"}))
def test_celery_commands_exist(name: str) -> None:
    """Every service of ours starts a Celery subcommand that exists, with options that it knows."""
    program, *application, subcommand = BELLHOP[name]["command"][:4]
    assert [program, *application] == ["celery", "-A", "worker"]
    command = celery_command.commands[subcommand]
    known = {text for parameter in command.params for text in parameter.opts + parameter.secondary_opts}
    given = {argument.partition("=")[0] for argument in BELLHOP[name]["command"][4:] if argument.startswith("-")}
    # Flower takes its options as they come and checks them itself.
    assert given <= known or subcommand == "flower"


def test_init_command_exists() -> None:
    """The one-shot service starts a subcommand of `bellhop` that exists."""
    program, *arguments = SERVICES["init"]["command"]
    assert program == "bellhop"
    command = [sys.executable, "-c", "from worker.cli import main; main()", *arguments, "--help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_variables_are_known(name: str) -> None:
    """Every variable given to a service is a setting, or belongs to an image that is not ours."""
    assert set(SERVICES[name].get("environment", {})) <= {field.upper() for field in Settings.model_fields} | OF_OTHERS


def test_secrets_have_no_default() -> None:
    """A secret is taken from the environment or the start fails; it never stands in the file."""
    secret_settings = {n.upper() for n, f in Settings.model_fields.items() if SecretStr.__name__ in str(f.annotation)}
    text = re.sub(r"(?m)^\s*#.*$", "", (ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    found = {match["name"] or match["bare"]: match["rule"] for match in INTERPOLATED.finditer(text)}
    secret = {name: rule for name, rule in found.items() if name in secret_settings or SECRET.search(name)}
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "FLOWER_BASIC_AUTH"} <= set(secret)
    assert not {name for name, rule in secret.items() if not (rule or "").startswith(":?")}


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_given_secrets_come_from_outside(name: str) -> None:
    """What looks like a secret in a service's environment or command is interpolated, not written out."""
    environment = SERVICES[name].get("environment", {})
    command = SERVICES[name].get("command", [])
    options = {flag: value for flag, value in pairwise(command) if "pass" in flag}
    given = {key: value for key, value in {**environment, **options}.items() if SECRET.search(key.upper())}
    assert all(INTERPOLATED.fullmatch(value) for value in given.values() if value)


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"init"}))
def test_service_is_watched_and_restarted(name: str) -> None:
    """Every long-running service has a health check and comes back after a crash."""
    assert SERVICES[name]["healthcheck"]["test"]
    assert SERVICES[name]["restart"] == "unless-stopped"


@pytest.mark.parametrize("name", sorted(started("worker")))
def test_worker_asks_itself_for_its_health(name: str) -> None:
    """The health check pings the node name the worker was started with."""
    node = option(started("worker")[name], "-n").replace("%h", "$$HOSTNAME")
    assert shlex.split(SERVICES[name]["healthcheck"]["test"][1])[-2:] == ["-d", node]


@pytest.mark.parametrize("name", sorted(started("worker")))
def test_worker_may_stop_in_good_order_before_it_is_killed(name: str) -> None:
    """The grace period is longer than the time after which it cuts off what still runs."""
    assert seconds(SERVICES[name]["stop_grace_period"]) >= Settings().stop_seconds + 30


def test_broker_keeps_what_it_is_given() -> None:
    """Redis writes its log every second and refuses new messages rather than dropping old ones."""
    command = SERVICES["redis"]["command"]
    assert option(command, "--appendonly") == "yes"
    assert option(command, "--appendfsync") in {"everysec", "always"}
    assert option(command, "--maxmemory-policy") == "noeviction"
    assert SERVICES["redis"]["volumes"]


def test_only_loopback_is_published() -> None:
    """Nothing listens on an address the outside can reach."""
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert not [port for port in ports if not port.startswith("127.0.0.1:")]


def test_workers_wait_for_the_schema() -> None:
    """No process of ours starts before the database is migrated."""
    waiting = {name for name, service in BELLHOP.items() if "init" in service["depends_on"]}
    assert waiting == set(BELLHOP) - {"init"}
    assert all(BELLHOP[name]["depends_on"]["init"]["condition"] == "service_completed_successfully" for name in waiting)


def test_volumes_are_declared() -> None:
    """Every named volume is declared, and every mounted path of the repository exists."""
    sources = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {source for source in sources if not source.startswith(".")} == set(COMPOSE["volumes"])
    assert not [source for source in sources if source.startswith(".") and not (ROOT / source).exists()]


def test_rabbitmq_serves_every_service_that_has_a_broker() -> None:
    """The variant gives each of them the other broker, waits for it, and is given no unknown service."""
    text = (ROOT / "docker-compose.rabbitmq.yml").read_text(encoding="utf-8")
    services = yaml.safe_load(text)["services"]
    assert set(BELLHOP) - {"init"} == set(services) - {"rabbitmq"}
    for name in set(services) - {"rabbitmq"}:
        assert {"BROKER_URL", "SIGNAL_URL"} == set(services[name]["environment"])
        assert services[name]["environment"]["BROKER_URL"].startswith("amqp://")
        assert "service_healthy" == services[name]["depends_on"]["rabbitmq"]["condition"]
    assert {":?set it in .env"} == {match["rule"] for match in INTERPOLATED.finditer(text)}


def test_image_copies_what_exists() -> None:
    """Every COPY of the Dockerfile from the repository finds its sources, also past .dockerignore."""
    copies = [line.split()[1:-1] for line in DOCKERFILE.splitlines() if line.startswith("COPY ")]
    sources = [source for copy in copies if not copy[0].startswith("--from") for source in copy]
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line[1:].rstrip("/") for line in ignore if line.startswith("!")}
    assert sources
    assert not [source for source in sources if not (ROOT / source).exists()]
    assert set(sources) == sent


def test_image_does_not_run_as_root() -> None:
    """The last stage ends as a user without rights."""
    last_stage = DOCKERFILE.rpartition("\nFROM ")[2]
    users = re.findall(r"(?m)^USER (\S+)$", last_stage)
    assert users
    assert users[-1] not in {"root", "0"}


def test_image_installs_what_is_locked() -> None:
    """Every package of the image comes with a hash; the project's own wheel brings no others."""
    installs = re.findall(r"pip (?:install|wheel) (.*)", DOCKERFILE)
    assert installs
    assert not [line for line in installs if "--require-hashes" not in line and "--no-deps" not in line]
