"""An image file as the picture that a viewer shows: upright, on white, with eight bits a channel."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageOps

_ORIENTATION = 0x0112  # the EXIF tag of a camera that was held otherwise


def picture(image: Image.Image) -> Image.Image:
    """RGB: turned as its EXIF orientation says, what is transparent white.

    Raises ValueError for more than eight bits a channel, which Pillow would cut off at white.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise ValueError("more than 8 bits a channel; save it with 8")
    upright = ImageOps.exif_transpose(image)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    shown = upright.convert("RGBA")
    white = Image.new("RGBA", shown.size, "white")
    return Image.alpha_composite(white, shown).convert("RGB")


def stored_as_shown(image: Image.Image) -> bool:
    """Whether the pixels of a file are already those of its picture."""
    return image.getexif().get(_ORIENTATION, 1) == 1 and not image.has_transparency_data


def shown(load: Callable[[], bytes]) -> bytes:
    """The picture of a file as a file of its own: a JPEG of high quality of a JPEG, else a PNG."""
    with Image.open(io.BytesIO(load())) as image:
        kind, out = "JPEG" if image.format == "JPEG" else "PNG", io.BytesIO()
        picture(image).save(out, kind, quality=95)
    return out.getvalue()
