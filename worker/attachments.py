"""Files that ride with an email: attachments and inline images of a request, and images that templates make."""

import hashlib
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, StrictBool, model_validator

#: Files that one request may carry, and their bytes in all.
MAX_FILES, MAX_FILE_BYTES = 10, 5 * 1024 * 1024

_CONTENT_TYPE = r"^(application|audio|font|image|model|text|video)/[a-z0-9][a-z0-9.+-]{0,100}$"
_NAME = re.compile(r"[^\x00-\x1f\x7f/\\:*?\"<>|\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]{1,200}")


@dataclass(frozen=True, slots=True)
class File:
    """A file of one email."""

    name: str
    content_type: str
    content: bytes
    cid: str | None = None
    """The Content-ID of an inline image (RFC 2392), None for an attachment."""

    @property
    def sha256(self) -> str:
        """What it is kept under."""
        return hashlib.sha256(self.content).hexdigest()


def _decoded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return b64decode(value, validate=True)
    except ValueError:
        raise ValueError("bytes, or text in base64") from None


def _plain_name(value: Any) -> Any:
    if isinstance(value, str) and (not _NAME.fullmatch(value) or value.strip(". ") == ""):
        raise ValueError("a plain file name of at most 200 characters")
    return value


Content = Annotated[
    bytes,
    Field(min_length=1, max_length=MAX_FILE_BYTES),
    BeforeValidator(_decoded),
    PlainSerializer(lambda value: b64encode(value).decode(), return_type=str, when_used="json"),
]


class Attachment(BaseModel):
    """A file given with a request; on the wire its content is base64."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    name: Annotated[str, BeforeValidator(_plain_name)]
    content_type: Annotated[str, Field(pattern=_CONTENT_TYPE)]
    content: Content
    inline: StrictBool = False
    """An image for the html part, where `{{ "NAME" | inline }}` is its address."""

    @model_validator(mode="after")
    def _inline_is_image(self) -> Self:
        if self.inline and not self.content_type.startswith("image/"):
            raise ValueError("an inline file is an image")
        return self

    def as_file(self) -> File:
        """The file as an email carries it."""
        return File(self.name, self.content_type, self.content, content_id(self.content) if self.inline else None)


def check_files(files: tuple[Attachment, ...]) -> tuple[Attachment, ...]:
    """Raise ValueError for more bytes than a request may carry, or a name given twice."""
    if sum(len(file.content) for file in files) > MAX_FILE_BYTES:
        raise ValueError(f"at most {MAX_FILE_BYTES} bytes in all")
    if len({file.name for file in files}) < len(files):
        raise ValueError("each name once")
    return files


def content_id(content: bytes) -> str:
    """The Content-ID of an image: equal images have the same, so that one copy serves a whole mail."""
    return f"{hashlib.sha256(content).hexdigest()[:32]}@bellhop"
