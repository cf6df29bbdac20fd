"""Every error Bellhop raises on purpose. The docstring is the default message.

No message ever holds an address, a recipient's name or a context value: errors reach logs, Flower and other
people's screens. They name the field, the event, the language or the rule.
"""

import inspect
import traceback
from pathlib import PurePath


class BellhopError(Exception):
    """Bellhop could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(self))


class InvalidRequest(BellhopError):
    """The request breaks the contract; the message names the field and the rule."""


class InvalidQuery(BellhopError):
    """The query of a list is not one; the message names the column and what was expected there."""


class InvalidEventConfig(BellhopError):
    """config/events.toml is wrong; the message names the file, the event and the field."""


class InvalidSettings(BellhopError):
    """A setting is wrong; the message names the variable and the rule."""


class UnknownEvent(BellhopError):
    """No event of that name is configured."""


class InactiveEvent(BellhopError):
    """The event is configured, but switched off."""


class InvalidContext(BellhopError):
    """The context does not match the event's declared names."""


class UnknownRecipient(BellhopError):
    """A username in `to` is not in the directory."""


class EmptyGroup(BellhopError):
    """A group in `to` has no members."""


class UnknownParent(BellhopError):
    """`parent_id` is neither a notification of this recipient nor a request that was created."""


class MandatoryEvent(BellhopError):
    """The event cannot be turned off: its config says `preference = false`."""


class DirectoryReadOnly(BellhopError):
    """`recipients` is a view of the application's own table: change the recipients there."""


class InvalidLanguage(BellhopError):
    """Not a well-formed BCP 47 language tag."""


class InvalidTimezone(BellhopError):
    """Not a time zone of the IANA database."""


class TemplateMissing(BellhopError):
    """No language of the fallback chain has the event's templates."""


class TemplateFailed(BellhopError):
    """A template could not be rendered; the message names the template and the rule."""


class IdempotencyConflict(BellhopError):
    """The idempotency key, or the id, was already used by a different request."""


class NoBroker(BellhopError):
    """No Celery app is configured in this process: pass `app`, for instance `app=connect(broker_url)`."""


class Unsigned(BellhopError):
    """The message is not signed with a key of `SIGNING_KEYS`; nothing of it was run or kept."""


class PartlyRefused(BellhopError):
    """Some requests of a batch were refused; the others were created."""


class SchemaOutdated(BellhopError):
    """The database schema is not at the version this worker needs; run `bellhop init-db`."""


class TablesInUse(BellhopError):
    """Somebody does not let go of the tables: stop the workers, and what reads inboxes, and try again."""


class StoreUnavailable(BellhopError):
    """The database could not be reached, or could not do it now; the task is tried again."""


class UnexpectedError(BellhopError):
    """A programming error; the message names its type and place, never its values."""


class Poisoned(BellhopError):
    """Every worker that took it died, or ran out of its time; it is not tried again."""


def describe(error: BaseException) -> str:
    """An error as one line: one of our own in its words, any other by its type and place alone."""
    if isinstance(error, BellhopError):
        return f"{type(error).__name__}: {error}"
    return f"{UnexpectedError.__name__}: {type_and_place(error)}"


def type_and_place(error: BaseException) -> str:
    """What may be told of an error whose message could hold anything."""
    original = getattr(error, "orig", None) or error  # a database driver's, where SQLAlchemy wraps it
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(original).__name__}{place}"
