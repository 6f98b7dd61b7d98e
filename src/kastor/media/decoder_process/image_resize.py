"""Smaller pictures inside the child process. Runs only in `media.child`; videos are encoded by `media.chunk`."""

import io
from pathlib import Path

import PIL.Image

from kastor.domain.media import MediumError
from kastor.media.decode_limits import DecodeLimits
from kastor.media.decoder_process import image_decode

JPEG_QUALITY = 92


def downscale_picture(path: Path, lines: int, max_bytes: int | None, guards: DecodeLimits) -> tuple[bytes, str]:
    """The picture upright, with `lines` pixels on its shorter side if it has more, and its MIME type.

    A PNG stays one; all others become JPEG. Transparent parts become white.

    Raises:
        MediumError: it is damaged, or the outcome has more than `max_bytes`.

    """
    image_decode.register_decoders(guards)
    known = image_decode.probe_picture(path, guards)
    width, height = known.width or 1, known.height or 1
    scale = min(1.0, lines / min(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = PIL.Image.fromarray(image_decode.decode_picture(path, size, guards))
    memory = io.BytesIO()
    if known.container == "png":
        image.save(memory, format="PNG", optimize=True)
    else:
        image.save(memory, format="JPEG", quality=JPEG_QUALITY)
    if max_bytes is not None and memory.tell() > max_bytes:
        raise MediumError.of("piece_too_large", f"Scaled down it still has more than {max_bytes:,} bytes.")
    return memory.getvalue(), "image/png" if known.container == "png" else "image/jpeg"
