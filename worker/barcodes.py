"""Code 128 barcodes as PNG, as FOLIO's notices have them. python-barcode encodes, Pillow writes the picture."""

from functools import lru_cache
from io import BytesIO

from barcode import Code128
from PIL import Image, ImageOps

from worker.errors import TemplateFailed

#: Pixels: the width of the thinnest bar, the height, and the quiet zone of ten bars that scanners need (ISO 15417).
BAR, HEIGHT, QUIET = 2, 80, 20
#: Characters that still fit a mail's width.
MAX_LENGTH = 48


@lru_cache(maxsize=256)
def code128_png(value: str) -> bytes:
    """The barcode of a number or of printable ASCII text.

    Raises TemplateFailed naming the rule.
    """
    if not 0 < len(value) <= MAX_LENGTH or not value.isascii() or not value.isprintable():
        raise TemplateFailed(f"barcode: 1 to {MAX_LENGTH} printable ASCII characters")
    modules = Code128(value).build()[0]
    bars = Image.new("1", (len(modules), 1))
    bars.putdata([0 if module == "1" else 1 for module in modules])
    scaled = bars.resize((len(modules) * BAR, HEIGHT), Image.Resampling.NEAREST)
    file = BytesIO()
    ImageOps.expand(scaled, border=(QUIET, QUIET // 2), fill=1).save(file, "PNG", optimize=True)
    return file.getvalue()
