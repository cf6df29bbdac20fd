"""The only reader of the environment. Every field is a variable of the same name in capitals.

`config/worker.env.example` lists them all; a test compares the two.
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from worker.errors import InvalidSettings
from worker.lang import lang_field
from worker.signing import Keys

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
Folder = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
"""Empty: none."""


def _crontab(value: str) -> str:
    if len(value.split()) != 5:
        raise ValueError("five crontab fields: minute hour day-of-month month day-of-week")
    return value


def _broker(value: SecretStr) -> SecretStr:
    scheme = value.get_secret_value().partition("://")[0]
    if scheme not in ("redis", "rediss", "redis+socket", "amqp", "amqps", "memory"):
        raise ValueError("redis://, rediss://, redis+socket://, amqp:// or amqps:// only")
    return value


def _redis(value: SecretStr | None) -> SecretStr | None:
    url = value.get_secret_value() if value else ""
    if url and url.partition("://")[0] not in ("redis", "rediss", "redis+socket", "unix"):
        raise ValueError("redis://, rediss://, redis+socket:// or unix:// only")
    return value if url else None


def _web_address(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^\s/]\S*", value, re.IGNORECASE):
        raise ValueError("an absolute address that starts with https:// or http://, without white space; or nothing")
    return value


def _keys(value: SecretStr) -> SecretStr:
    if text := value.get_secret_value().strip():
        Keys.parse(text)
    return value


class Settings(BaseSettings):
    """Bellhop's settings; secrets are masked when printed."""

    model_config = SettingsConfigDict(env_file=None, extra="ignore", frozen=True)

    database_url: SecretStr = SecretStr("sqlite:///.bellhop/bellhop.db")
    broker_url: Annotated[SecretStr, AfterValidator(_broker)] = SecretStr("redis://127.0.0.1:6379/0")
    result_backend: SecretStr | None = None
    """Where `inbox.*` and `recipients.*` results go; absent: the broker, as `rpc://` where that is RabbitMQ."""

    signing_keys: Annotated[SecretStr, AfterValidator(_keys)] = SecretStr("")
    """`id:base64`, with commas between: the first key signs messages, all verify them; empty: nothing is signed."""
    signing_required: bool = True
    """Where there are keys: whether messages that are not signed are refused, or run with a warning."""

    smtp_url: SecretStr = SecretStr("smtp://127.0.0.1:25")
    """`smtp://user:password@host:587` (STARTTLS where offered; `?tls=none|optional|required`), or `smtps://` (TLS)."""
    smtp_timeout_seconds: Seconds = 20
    """For every answer of the mail server but the last."""
    smtp_data_timeout_seconds: Seconds = 60
    """For the answer to a mail's content: given up too early, a mail that was accepted is sent again."""
    smtp_connections: Count = 4
    """Connections that one process sends over at the same time; a worker has as many as its concurrency."""
    record_window: Count = 100
    """Emails per process that the server may have taken and that are not recorded yet: a killed process sends up to
    so many again. None waits longer than 20 ms to be recorded."""
    email_from: str = "Bellhop <bellhop@localhost>"

    default_lang: Annotated[str, AfterValidator(lang_field)] = "en"
    langs: str = ""
    """The languages that `bellhop lint` wants of every event, with commas between; empty: those of any event."""
    config_dir: Folder = None
    """Holds events.toml; absent: `config` of the working directory where that does, else the one in the package."""
    templates_dir: Folder = None
    """Absent: `templates` of the working directory where it is Bellhop's, else the ones in the package."""
    templates_reload: bool = False
    """Look for changed templates and event configs before each creation; for development. Else: at SIGHUP."""

    brand_name: str = "Bellhop"
    """Shown in the frame of every mail, as are the colour, logo and footer."""
    brand_color: Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")] = "#1f5fa8"
    brand_logo_url: Annotated[str, AfterValidator(_web_address)] = ""
    brand_footer: str = ""

    create_batch: Count = 1000
    """Recipients created in one transaction; larger audiences are fanned out."""
    poison_tries: Annotated[int, Field(ge=2)] = 3
    """A request whose creation so many workers died of, or ran out of time with, is failed. Not 1: a message may come
    again without any fault of its own."""
    create_gather: Annotated[int, Field(ge=0, le=1000)] = 500
    """Other waiting `notifications.create` messages that one run takes along, into one transaction; 0: none."""
    deliver_batch: Count = 500
    """Deliveries claimed and sent by one task."""
    lease_seconds: Seconds = 300
    """A claimed delivery whose worker says nothing for this long is taken up again."""
    handover_seconds: Seconds = 60
    """A due delivery that nobody claimed for this long after hand-over is handed over again."""
    dispatch_every_seconds: Seconds = 5
    max_attempts: Count = 150
    """So many that usually the age decides, below."""
    retry_base_seconds: Seconds = 10
    retry_max_seconds: Seconds = 3600
    give_up_high_seconds: Seconds = 14_400
    """An email of an event of high priority is tried no more once it is so old (its notification's age)."""
    give_up_normal_seconds: Seconds = 432_000
    """The same for the others: five days (RFC 5321, 4.5.4.1)."""
    unknown_policy: Literal["resend", "hold"] = "resend"
    """A mail that the server may have taken: send again with the same Message-ID, or hold it for the operator."""

    suppress_on_refusal: bool = False
    """An address of which the mail server says that it does not exist is suppressed from then on."""
    email_rate_per_second: Annotated[float, Field(ge=0)] = 0
    """Emails that all workers together begin to send in a second; 0: as many as they can."""
    breaker_failures: Count = 5
    """When the mail server could not be used so often in a row, nothing is sent for a while, then one as a probe."""
    breaker_max_seconds: Seconds = 300
    """The longest such while; the first is as long as the wait before a second attempt, and each next one twice it."""
    throttled_pause_seconds: Seconds = 10
    """That while, when what the mail server asked for was less."""

    signal: Literal["off", "on", "all"] = "on"
    """Whether changes of an inbox are published to those who listen: off; on, but for the pages of a fan-out; all."""
    signal_url: Annotated[SecretStr | None, AfterValidator(_redis)] = None
    """The Redis that they are published on; absent: the broker, where it is Redis, else none."""

    seen_retention_days: Annotated[int, Field(ge=0)] = 90
    purge_cron: Annotated[str, AfterValidator(_crontab)] = "17 3 * * *"
    """When the purge runs, in UTC."""
    purge_batch: Count = 2000
    """The most rows of one batch; it is made smaller until a batch takes about 10 ms."""
    purge_budget_seconds: Seconds = 50
    request_retention_days: Annotated[int, Field(gt=0)] = 30
    """How long the record of a request (its id, idempotency key and hash) is kept."""
    failed_retention_days: Annotated[int, Field(gt=0)] = 90
    """How long a request that failed is kept, with what was asked."""

    task_time_limit_seconds: Seconds = 240
    """A task that runs longer ends in an error; at 1.125 times it, its process is killed. Well below the next."""
    stop_seconds: Seconds = 100
    """After SIGTERM, tasks that still run after this long are cut off; the container must be given longer."""
    visibility_timeout_seconds: Count = 300
    """After this long the Redis broker hands an unacknowledged message to another worker."""

    @model_validator(mode="after")
    def _tasks_end_before_they_are_handed_out_again(self) -> Self:
        if self.visibility_timeout_seconds <= 1.2 * self.task_time_limit_seconds:
            raise ValueError("VISIBILITY_TIMEOUT_SECONDS: more than 1.2 times TASK_TIME_LIMIT_SECONDS")
        return self


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Read the environment once per process.

    Raises InvalidSettings naming each wrong variable and its rule, never its value.
    """
    try:
        return Settings()
    except ValidationError as error:
        raise InvalidSettings("; ".join(_complaint(e) for e in error.errors())) from None


def shipped(folder: str) -> Path:
    """The folder that comes with Bellhop: an installed wheel has it inside the package, a source checkout beside it."""
    package = Path(__file__).parent
    inside = package / "_shipped" / folder
    return inside if inside.is_dir() else package.parent / folder


def _complaint(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"]).upper()
    words = str(error["msg"]).removeprefix("Value error, ")
    return f"{place}: {words}" if place else words
