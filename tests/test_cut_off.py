"""Tasks that the worker itself cuts off when it loses its broker."""

from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated
from celery import Celery
from celery.worker.request import Request

from worker.transport import MaskedRequest


def away(*_: Any, **__: Any) -> None:
    """Stands in for a result backend that is not there."""
    raise ConnectionError


@pytest.mark.parametrize(("kind", "acknowledged"), [(Request, 1), (MaskedRequest, 0)])
def test_a_task_that_was_cut_off_comes_again(
    monkeypatch: pytest.MonkeyPatch, kind: type[Request], acknowledged: int
) -> None:
    """Broker and result backend are away, and the worker kills what runs: Celery drops it as revoked; ours does not."""
    app, acks = Celery(broker="memory://", set_as_current=False), []

    @app.task(acks_late=True, shared=False)  # type: ignore[untyped-decorator]
    def long() -> None:
        raise AssertionError

    long.delay()
    with app.connection_for_read() as connection:
        message = connection.default_channel.basic_get("celery")
    request = kind(message, app=app, task=long, on_ack=lambda *_: acks.append("acknowledged"))
    request.time_start = 1.0
    monkeypatch.setattr(long.backend, "mark_as_retry", away)
    with pytest.raises(ConnectionError):
        request.cancel(SimpleNamespace(terminate_job=lambda *_: None))
    try:
        raise Terminated(15)
    except Terminated:
        request.on_failure(ExceptionInfo())
    assert acknowledged == len(acks)
