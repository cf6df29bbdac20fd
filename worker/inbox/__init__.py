"""Use case: read and update one recipient's notifications.

Another recipient's row looks absent in each of them; a read changes nothing.

Every function takes the caller's own SQLAlchemy session and leaves the commit to the caller.
"""

from worker.inbox.changes import delete, delete_seen, mark_all_seen, mark_seen
from worker.inbox.counting import Counts, counts, event_types, has_unseen, unseen_count
from worker.inbox.filters import Filters, Where, visible
from worker.inbox.items import Item
from worker.inbox.lists import get, list
from worker.inbox.pages import MAX_PER_PAGE, Page
from worker.inbox.plain import Depth, as_dict, counts_as_dict, page_as_dict

__all__ = [
    "MAX_PER_PAGE",
    "Counts",
    "Depth",
    "Filters",
    "Item",
    "Page",
    "Where",
    "as_dict",
    "counts",
    "counts_as_dict",
    "delete",
    "delete_seen",
    "event_types",
    "get",
    "has_unseen",
    "list",
    "mark_all_seen",
    "mark_seen",
    "page_as_dict",
    "unseen_count",
    "visible",
]
