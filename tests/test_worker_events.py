"""The events that Flower shows: sent together and a little later; none is lost by that."""

from typing import Any

import pytest
from kombu.asynchronous import Hub

from worker import transport
from worker.transport import PlainConsumer


class Dispatcher:
    """Stands in for Celery's."""

    sent = 0

    def flush(self) -> None:
        self.sent += 1


class Blueprint:
    """Of a consumer without any steps."""

    def shutdown(self, _parent: Any) -> None:
        pass


@pytest.fixture
def consumer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A consumer with an event loop, without a broker."""
    monkeypatch.setattr(transport, "EVENTS_SECONDS", 0)
    made: Any = PlainConsumer.__new__(PlainConsumer)
    made.hub, made.event_dispatcher, made.blueprint = Hub(), Dispatcher(), Blueprint()
    made._pending_operations, made.connection_errors = [], (ConnectionError,)
    return made


def test_events_wait_for_each_other(consumer: Any) -> None:
    """Many events are one sending, after whatever the loop does at once; later ones are another."""
    for _ in range(5):
        consumer.on_send_event_buffered()
    assert 0 == consumer.event_dispatcher.sent
    consumer.hub.fire_timers()
    assert 1 == consumer.event_dispatcher.sent
    consumer.on_send_event_buffered()
    consumer.hub.fire_timers()
    assert 2 == consumer.event_dispatcher.sent


def test_events_go_on_after_an_outage(consumer: Any) -> None:
    """Celery cancels what timers were set, when it loses its broker."""
    consumer.on_send_event_buffered()
    consumer.hub.timer.clear()
    consumer._flush.cancel()
    consumer.on_send_event_buffered()
    consumer.hub.fire_timers()
    assert 1 == consumer.event_dispatcher.sent


def test_the_last_events_are_sent_at_the_end(consumer: Any) -> None:
    """A worker that stops does not come back to its timers."""
    consumer.on_send_event_buffered()
    consumer.shutdown()
    assert 1 == consumer.event_dispatcher.sent


def test_a_lost_broker_does_not_hold_up_the_end(consumer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its events are not sent then."""

    def away() -> None:
        raise ConnectionError

    consumer.on_send_event_buffered()
    monkeypatch.setattr(consumer.event_dispatcher, "flush", away)
    consumer.shutdown()
