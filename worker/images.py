"""Images inside a mail: those given with the request, and barcodes that a template makes of a value."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from jinja2 import pass_context
from jinja2.runtime import Context
from markupsafe import Markup

from worker.attachments import File, content_id
from worker.barcodes import code128_png
from worker.errors import TemplateFailed


class Images:
    """The images of one rendering; equal ones once."""

    #: What the renderings' variables hold it under; no context name begins so.
    NAME: ClassVar = "_images"

    def __init__(self, files: Sequence[File]) -> None:
        self.given = {file.name: file.cid for file in files if file.cid}
        self.made: dict[str, File] = {}

    def add(self, file: File) -> None:
        """Have the mail carry an image."""
        self.made.setdefault(file.cid or "", file)


def image_filters() -> dict[str, Callable[..., Any]]:
    """The filters by the names that templates use."""
    return {"inline": inline, "barcode": barcode}


@pass_context
def inline(context: Context, name: str) -> str:
    """The address, for `src`, of an image that the request carries under this name.

    Raises TemplateFailed where it carries none.
    """
    cid = context[Images.NAME].given.get(name)
    if cid is None:
        raise TemplateFailed("inline: the request carries no inline image of this name")
    return f"cid:{cid}"


@pass_context
def barcode(context: Context, value: object) -> Markup:
    """An image element with the value as a Code 128 barcode, which the mail carries. For html parts.

    Raises TemplateFailed for what Code 128 cannot hold.
    """
    text = str(value)
    content = code128_png(text)
    file = File("barcode.png", "image/png", content, content_id(content))
    context[Images.NAME].add(file)
    return Markup('<img src="cid:{}" alt="{}" style="max-width: 100%; border: 0;">').format(file.cid, text)
