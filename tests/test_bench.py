"""The benchmarks still run: their smallest form, on servers of their own."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from celery import _state

ROOT = Path(__file__).parent.parent


@pytest.mark.timeout(240)  # half a minute alone; longer than the limit below
def test_the_smallest_run_gives_its_page_and_picture(tmp_path: Path) -> None:
    """Every contender has a number, the goals are judged, and all is written where it was asked for."""
    command = [sys.executable, "-m", "bench", "--tiny", "--only", "enqueue", "mail", "--out", str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=200
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    written = json.loads((tmp_path / "results.json").read_text())
    cases = {result["key"]: result["values"] for result in written["results"]}
    assert {"enqueue/one", "enqueue/many", "mail/near", "mail/far"} == set(cases)
    for key, values in cases.items():
        assert {"Bellhop", "hand-written"} <= set(values), key
        assert all(rate > 0 for rates in values.values() for rate in rates), key
    page = (tmp_path / "README.md").read_text()
    assert "| publishing many distinct requests: times delay() in a loop | at least 40 |" in page
    assert "fsync=on, synchronous_commit=on" in page
    words = " ".join(ElementTree.parse(tmp_path / "results.svg").getroot().itertext())
    assert "enqueue many" in words


@pytest.fixture
def _bench_stays_apart(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The hand-written worker's app is not the current one of later tests, nor are its tasks in their apps."""
    monkeypatch.setattr(_state, "_on_app_finalizers", set(_state._on_app_finalizers))
    before = _state.get_current_app()
    yield
    before.set_current()


@pytest.mark.usefixtures("_bench_stays_apart")
def test_a_profile_counts_a_sample_by_its_innermost_known_frame() -> None:
    """Waiting is told from work, and what libraries do from what Bellhop does."""
    raw = (
        "run (celery/app/trace.py:1);record (worker/create.py:9);execute (psycopg/cursor.py:1);"
        "wait (psycopg/connection.py:495) 3\n"
        "run (celery/app/trace.py:1);render (worker/render.py:5);root (text.txt:34) 2\n"
        "run (celery/app/trace.py:1);take (worker/gather.py:7);loads (json/decoder.py:1) 1\n"
        "start (threading.py:1) 1\n"
    )
    profile, sampling = importlib.import_module("bench.profile"), importlib.import_module("bench.sampling")
    expected = {"PostgreSQL: waiting": 3, "rendering": 2, "reading messages": 1, "the rest": 1}
    assert sampling.shares(raw, profile.GROUPS) == expected
