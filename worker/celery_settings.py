"""Settings of which only Celery can tell whether they work."""

from celery.app.backends import by_url
from celery.exceptions import ImproperlyConfigured
from celery.schedules import ParseException, crontab

from worker.errors import InvalidSettings


def checked_backend(url: str) -> str:
    """The URL of a result backend, RESULT_BACKEND. Raises InvalidSettings, which does not show it."""
    try:
        by_url(url)
    except (ImproperlyConfigured, ImportError, AttributeError):
        raise InvalidSettings("RESULT_BACKEND: a result backend that Celery has, such as redis:// or rpc://") from None
    return url


def checked_crontab(line: str) -> crontab:
    """The moments of PURGE_CRON. Raises InvalidSettings."""
    try:
        # Not crontab(*fields): its parameters are in another order than the fields of a crontab line.
        moments: crontab = crontab.from_string(" ".join(line.split()))
    except (ValueError, ParseException):
        fields = "minute 0-59, hour 0-23, day-of-month 1-31, month 1-12 (with that day), day-of-week 0-6 (0 is Sunday)"
        raise InvalidSettings(f"PURGE_CRON: five crontab fields: {fields}") from None
    return moments
