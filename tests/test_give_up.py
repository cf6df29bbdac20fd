"""What is tried no more: a delivery by its age, an address that does not exist."""

from datetime import timedelta
from uuid import UUID

import pytest

from tests.channel import Configure, send
from tests.rows import change_delivery, get_delivery, put_deliveries, put_notifications
from tests.smtp_servers import Script
from tests.store import rows
from worker import recipients
from worker.database import transaction, utcnow
from worker.deliver import Delivered
from worker.models import Suppression

pytestmark = pytest.mark.usefixtures("catalogue", "engine")


@pytest.mark.parametrize(("urgency", "hours"), [(0, 4), (1, 120)])
def test_too_old_is_given_up(urgency: int, hours: int, configure: Configure) -> None:
    """By the age of the notification and its priority: after the attempt that would be followed by a later one."""
    young, old = put_deliveries(2, urgency=urgency)
    for id, age in ((young, timedelta(hours=hours - 1)), (old, timedelta(hours=hours, seconds=-30))):
        put_age(id, age)
    done, _ = send([young, old], {"rcpt": "451 4.3.0 later"}, configure, RETRY_BASE_SECONDS=100)
    assert Delivered(later=1, failed=1) == done
    assert ("pending", "transient") == (get_delivery(young).status, get_delivery(young).reason)
    row = get_delivery(old)
    assert ("failed", "too_late", 1, "RCPT: 451 4.3.0 later") == (row.status, row.reason, row.attempts, row.last_error)
    assert row.parts


def test_what_was_not_tried_in_time_is_not_sent(configure: Configure) -> None:
    """After a pause that outlasts the age nothing is sent, and no attempt is counted; a set moment goes before."""
    late, extended = put_deliveries(), put_deliveries(give_up_at=utcnow() + timedelta(hours=1))
    for id in late + extended:
        put_age(id, timedelta(days=6))
    assert Delivered(sent=1) == send(late + extended, {}, configure)[0]
    row = get_delivery(late[0])
    assert ("failed", "too_late", 0, "not tried in time") == (row.status, row.reason, row.attempts, row.last_error)
    assert "sent" == get_delivery(extended[0]).status


def put_age(id: UUID, age: timedelta) -> None:
    """Make a delivery's notification so old."""
    change_delivery(id, notification_id=put_notifications(created_at=utcnow() - age)[0])


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ({"rcpt": "550 5.1.1 unknown"}, ["reader@example.com"]),
        ({"rcpt": "556 5.1.10 null MX"}, ["reader@example.com"]),
        ({"rcpt": "550 5.7.1 policy"}, []),
        ({"rcpt": "552 5.2.2 full"}, []),
        ({"rcpt": "550 unknown"}, []),
        ({"content": "550 5.1.1 unknown"}, []),
        ({"mail": "550 5.1.1 unknown sender"}, []),
        ({"rcpt": "450 4.1.1 not now"}, []),
    ],
)
def test_an_address_that_does_not_exist_may_be_suppressed(
    script: Script, expected: list[str], configure: Configure
) -> None:
    """Where the setting says so, and only where the server says that there is no such address."""
    send(put_deliveries(), script, configure)
    assert [] == rows(Suppression), "not without the setting"
    send(put_deliveries(address="Reader@Example.com"), script, configure, SUPPRESS_ON_REFUSAL=True)
    assert [(address, "no_such_address") for address in expected] == [
        (row.address, row.reason) for row in rows(Suppression)
    ]


def test_a_suppressed_address_may_have_any_form(configure: Configure) -> None:
    """A view of an application's own table may hold what `suppress` refuses: it is recorded, and can be taken off."""
    address = '"reader(x)"@example.com'
    rejection: Script = {"rcpt": "550 5.1.1 unknown"}
    send(put_deliveries(address=address), rejection, configure, SUPPRESS_ON_REFUSAL=True)
    assert [address] == [row.address for row in rows(Suppression)]
    with transaction() as session:
        assert recipients.unsuppress(session, address.upper())
