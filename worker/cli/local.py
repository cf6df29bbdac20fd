"""Commands that run everything here, without servers."""

import sys
from pathlib import Path

import click

from worker.cli.shared import console


@click.command()
@click.option("--keep", is_flag=True, help="Stay up until Ctrl-C.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where data, mails and logs go; else a new one.")
def demo(keep: bool, folder: Path | None) -> None:
    """Start everything here, send example notifications, show what arrived, purge, and check it all."""
    from worker.demo import run_demo

    sys.exit(run_demo(console, folder=folder, keep=keep))


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".bellhop"), show_default=True)
@click.option("--flower-port", default=5555, show_default=True, type=click.IntRange(0, 65535))
def up(folder: Path, flower_port: int) -> None:
    """Run worker, beat, Flower, Redis and a mail catcher here, until Ctrl-C."""
    from worker.demo import run_up

    run_up(console, folder=folder, flower_port=flower_port)
