"""Smaller pictures inside the child process. Runs only in `media.child`; videos are encoded by `media.chunk`."""

import io
from pathlib import Path

import PIL.Image

from kastor.domain.media import MediumError
from kastor.media import pictures
from kastor.media.guards import Guards

JPEG_QUALITY = 92


def picture(path: Path, lines: int, max_bytes: int | None, guards: Guards) -> tuple[bytes, str]:
    """The picture upright, with `lines` pixels on its shorter side if it has more, and its MIME type.

    A PNG stays one; all others become JPEG. Transparent parts become white.

    Raises:
        MediumError: it is damaged, or the outcome has more than `max_bytes`.

    """
    pictures.set_up(guards)
    known = pictures.probe_picture(path, guards)
    width, height = known.width or 1, known.height or 1
    scale = min(1.0, lines / min(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = PIL.Image.fromarray(pictures.picture(path, size, guards))
    memory = io.BytesIO()
    if known.container == "png":
        image.save(memory, format="PNG", optimize=True)
    else:
        image.save(memory, format="JPEG", quality=JPEG_QUALITY)
    if max_bytes is not None and memory.tell() > max_bytes:
        raise MediumError.of("piece_too_large", f"Scaled down it still has more than {max_bytes:,} bytes.")
    return memory.getvalue(), "image/png" if known.container == "png" else "image/jpeg"
