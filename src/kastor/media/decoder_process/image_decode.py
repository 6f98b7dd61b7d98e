"""Pictures and PDF pages inside the child process. Runs only in `media.child`.

A picture's size is read from its header and judged before any pixel is unpacked.
"""

import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pillow_heif
import pypdfium2  # type: ignore[import-untyped]  # no stubs; stays in this module
from numpy.typing import NDArray

from kastor.domain.media import MediaKind, MediumError, Probe, Resampling
from kastor.media.decode_limits import DecodeLimits

FORMATS = ("PNG", "JPEG", "WEBP", "HEIF")  # a JPEG of several pictures (MPO) gives its first
ORIENTATION_TAG = 0x0112
TURNS = {3: 2, 4: 2, 5: 3, 6: 3, 7: 1, 8: 1}  # EXIF orientation -> counterclockwise quarter turns
JPEG_END = b"\xff\xd9"
DEPTHS = (8, 10, 12, 14, 16)  # bits of a greyscale value
PDF_POINTS_PER_INCH = 72
PDF_DPI = 144  # of a page whose size nobody asked for


def register_decoders(guards: DecodeLimits) -> None:
    """Make Pillow refuse what is too large, and know HEIC."""
    PIL.Image.MAX_IMAGE_PIXELS = guards.max_image_pixels
    warnings.simplefilter("error", PIL.Image.DecompressionBombWarning)
    pillow_heif.register_heif_opener()


def probe_picture(path: Path, guards: DecodeLimits) -> Probe:
    """What the picture is; it is read to its end, as a file that was cut off has its header all the same.

    Raises:
        MediumError: no picture we accept, too large, animated, cut off or damaged.

    """
    with _opened(path, guards) as image:
        turns = TURNS.get(_orientation(image), 0)
        width, height = (image.height, image.width) if turns % 2 else image.size
        name = str(image.format).lower()
        grey_bits = _read_whole(image, path)
        return Probe(
            kind=MediaKind.IMAGE,
            container="jpeg" if name == "mpo" else name,
            num_bytes=path.stat().st_size,
            width=width,
            height=height,
            rotation=turns * 90,
            num_frames=1,
            grey_bits=grey_bits,
        )


def decode_picture(
    path: Path,
    size: tuple[int, int] | None,
    guards: DecodeLimits,
    resample: Resampling = Resampling.BICUBIC,
    scaling: int = 0,
) -> NDArray[np.uint8]:
    """The whole picture upright, on white where it is transparent, (height, width, 3); scaled to `size` if given.

    `scaling` is the version of the rules that a model was tuned with; 0 is the present one.

    Raises:
        MediumError: it is cut off or damaged, or as `probe_picture` says.

    """
    with _opened(path, guards) as image, _damage_named(image):
        upright = PIL.ImageOps.exif_transpose(_loaded(image, path))
        return _pixels(_rgb(upright, scaling), size, resample)


@contextmanager
def _damage_named(image: PIL.Image.Image) -> Iterator[None]:
    """A failure to unpack the picture as a fault in our words: those of Pillow speak of its insides."""
    try:
        yield
    except MemoryError as error:
        raise _too_much_memory() from error
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error) as error:
        name = {"MPO": "JPEG", "HEIF": "HEIC"}.get(image.format or "", image.format)
        raise MediumError.of(
            "image_corrupt",
            f"The {name} picture is cut off or damaged: its header is whole, its pixels are not.",
            "Copy or export it again from the original.",
        ) from error


def _read_whole(image: PIL.Image.Image, path: Path) -> int | None:
    """Unpack the picture once, a JPEG at an eighth of its size, to see that it is whole; the bits of a deep grey one.

    Raises:
        MediumError: it is not.

    """
    with _damage_named(image):
        image.draft("RGB", (image.width // 8, image.height // 8))  # other formats know no such thing
        whole = _loaded(image, path)
        return used_bits(np.asarray(whole, dtype=np.uint32)) if is_16_bit(whole) else None


def _loaded(image: PIL.Image.Image, path: Path) -> PIL.Image.Image:
    """The picture, unpacked. A JPEG that lacks nothing but its end marker is whole, as all viewers have it.

    Raises:
        OSError: it is cut off or damaged, or as Pillow has it.

    """
    try:
        image.load()
    except OSError:
        if image.format not in ("JPEG", "MPO"):
            raise
        content = path.read_bytes()
        if not lacks_only_its_end(content):
            raise
        image = PIL.Image.open(io.BytesIO(content + JPEG_END), formats=FORMATS)
        image.load()
    return image


def lacks_only_its_end(content: bytes) -> bool:
    """Whether a JPEG without its end marker has all its pixels: FFmpeg's decoder counts their bits."""
    import av  # here, as few pictures need it

    decoder = av.CodecContext.create("mjpeg", "r")
    decoder.options = {"err_detect": "explode"}
    decoder.thread_count = 1
    try:
        return bool([*decoder.decode(av.Packet(content)), *decoder.decode(None)])
    except av.error.FFmpegError:
        return False


def probe_pdf(path: Path, guards: DecodeLimits) -> Probe:
    """The number of pages and their sizes.

    Raises:
        MediumError: no readable PDF, one that asks for a password, or too many pages.

    """
    document = _pdf(path, guards)
    try:
        sizes = tuple(document.get_page_size(i) for i in range(len(document)))
    except pypdfium2.PdfiumError as error:
        raise _bad_pdf(error) from error
    finally:
        document.close()
    return Probe(
        kind=MediaKind.PDF,
        container="pdf",
        num_bytes=path.stat().st_size,
        num_pages=len(sizes),
        page_sizes=sizes,
    )


def pdf_page(
    path: Path,
    number: int,
    size: tuple[int, int] | None,
    guards: DecodeLimits,
    resample: Resampling = Resampling.BICUBIC,
) -> NDArray[np.uint8]:
    """Page `number`, counted from 0, as a picture; at 144 dots an inch if no size is asked for.

    Raises:
        MediumError: as `probe_pdf`, or there is no such page.

    """
    document = _pdf(path, guards)
    try:
        if not 0 <= number < len(document):
            raise MediumError.of("pdf_page_missing", f"There is no page {number + 1}; the file has {len(document)}.")
        width, height = document.get_page_size(number)
        asked = size or (width / PDF_POINTS_PER_INCH * PDF_DPI, height / PDF_POINTS_PER_INCH * PDF_DPI)
        scale = max(asked[0] / max(width, 1e-3), asked[1] / max(height, 1e-3))
        scale = min(scale, math.sqrt(guards.max_image_pixels / max(width * height, 1e-3)))
        return _pixels(document[number].render(scale=scale).to_pil().convert("RGB"), size, resample)
    except pypdfium2.PdfiumError as error:
        raise _bad_pdf(error) from error
    except MemoryError as error:
        raise _too_much_memory() from error
    finally:
        document.close()


def _opened(path: Path, guards: DecodeLimits) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(path, formats=FORMATS)
    except (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning) as error:
        raise _too_large(guards) from error  # which Pillow tells in its own words, without width and height
    except MemoryError as error:
        raise _too_much_memory() from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise MediumError.of(
            "media_unreadable", "Not a readable png, jpeg, webp, heic or heif picture.", "Export it again."
        ) from error
    width, height = image.size
    if width * height > guards.max_image_pixels or max(width, height) > guards.max_side:
        raise _too_large(guards, f": {width} x {height}")
    if image.format in ("PNG", "WEBP") and getattr(image, "n_frames", 1) > 1:
        raise MediumError.of("image_animated", "The picture is animated.", "Send it as a video, or one picture of it.")
    return image


def _too_large(guards: DecodeLimits, what: str = "") -> MediumError:
    return MediumError.of(
        "image_too_many_pixels",
        f"The picture is too large{what}; at most {guards.max_image_pixels} pixels, and {guards.max_side} on a side, "
        "are unpacked.",
        "Scale it down.",
    )


def _too_much_memory() -> MediumError:
    return MediumError.of("media_too_much_memory", "The file asks for more memory than a medium may have.")


def _orientation(image: PIL.Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION_TAG, 1))
    except (OSError, ValueError, SyntaxError, TypeError):
        return 1  # broken EXIF: shown as stored, as browsers do


def used_bits(values: NDArray[np.uint32]) -> int:
    """How many bits of 16 a greyscale picture uses, as cameras and scanners do: 8, 10, 12, 14 or 16.

    >>> used_bits(np.array([0, 4095], np.uint32)), used_bits(np.array([0, 4096], np.uint32))
    (12, 14)
    """
    most = int(values.max(initial=0))
    return next((bits for bits in DEPTHS if most < 1 << bits), DEPTHS[-1])


def is_16_bit(image: PIL.Image.Image) -> bool:
    """Whether it is greyscale of up to 16 bits."""
    return image.mode.startswith("I;16") or image.mode == "I"


def _rgb(image: PIL.Image.Image, scaling: int = 0) -> PIL.Image.Image:
    if is_16_bit(image):
        values = np.asarray(image, dtype=np.uint32)
        bits = 16 if scaling == 1 else used_bits(values)
        return PIL.Image.fromarray((values >> (bits - 8)).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        see_through = image.convert("RGBA")
        paper = PIL.Image.new("RGBA", see_through.size, "white")
        return PIL.Image.alpha_composite(paper, see_through).convert("RGB")
    return image.convert("RGB")


def _pixels(image: PIL.Image.Image, size: tuple[int, int] | None, resample: Resampling) -> NDArray[np.uint8]:
    if size is not None and image.size != size:
        image = image.resize(size, PIL.Image.Resampling[resample.name])
    return np.asarray(image, dtype=np.uint8)


def _pdf(path: Path, guards: DecodeLimits) -> pypdfium2.PdfDocument:
    try:
        document = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        raise _bad_pdf(error) from error
    if len(document) > guards.max_pages:
        document.close()
        raise MediumError.of("pdf_too_many_pages", f"More than {guards.max_pages} pages.", "Split the file.")
    return document


def _bad_pdf(error: Exception) -> MediumError:
    if "password" in str(error).lower():
        return MediumError.of("pdf_encrypted", "The PDF asks for a password.", "Save it without one.")
    return MediumError.of("media_unreadable", f"Not a readable PDF ({error}).", "Export it again.")
