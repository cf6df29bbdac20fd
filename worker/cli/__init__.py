"""The `bellhop` command. Exit codes: 0 done, 1 a finding or failure, 2 wrong usage."""

import signal
import sys

import click
from sqlalchemy.exc import OperationalError

from worker.cli import channels, daily, doctor, explain, local, repair, texts
from worker.client import PublishError
from worker.errors import BellhopError

#: Every command there is, in the order of a life with Bellhop.
COMMANDS = (
    daily.init_db,
    daily.partition,
    daily.send,
    daily.inbox,
    daily.events,
    texts.lint,
    texts.preview,
    daily.purge,
    channels.status,
    channels.pause,
    channels.drain,
    channels.resume,
    repair.deliveries,
    repair.requests,
    explain.explain,
    repair.replay,
    doctor.doctor,
    local.demo,
    local.up,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="bellhop-worker")
def cli() -> None:
    """Bellhop delivers notifications: rendered, into inboxes, by email, once."""


for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Entry point; what goes wrong is said in one line, without a traceback."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        cli()
    except BellhopError as error:
        sys.exit(f"bellhop: {error}")
    except OperationalError as error:
        reason = str(error.orig).strip().splitlines()[0]
        sys.exit(f"bellhop: the database cannot be used ({reason}); see DATABASE_URL")
    except PublishError:
        sys.exit("bellhop: the broker could not be reached, nothing was asked; see BROKER_URL")
