"""What a file is, by its first bytes. Its name and its declared type are not asked."""

import codecs
from enum import Enum

from kastor.domain.media import MediumError

NUM_BYTES = 4096
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
REFUSED_PICTURES = {b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tiff", b"MM\0*": "tiff", b"8BPS": "psd"}
SOUND = {b"ID3": "mp3", b"fLaC": "flac", b"\xff\xfb": "mp3", b"\xff\xf3": "mp3", b"\xff\xf1": "aac", b"\xff\xf9": "aac"}
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"<?xml", b"<MPD", b"<smil", b"[playlist]", b"file '", b"v=0")


class DecoderLibrary(Enum):
    """Which library opens it."""

    PICTURE = "picture"
    PDF = "pdf"
    CONTAINER = "container"
    SOUND = "sound"


def detect_library(head: bytes) -> tuple[DecoderLibrary, str]:
    r"""Who opens a file that begins with `head`, and the format's name where the bytes alone tell it.

    >>> detect_library(b"\x89PNG\r\n\x1a\n...")[0], detect_library(b"%PDF-1.7")[0], detect_library(b"OggS\0")
    (<DecoderLibrary.PICTURE: 'picture'>, <DecoderLibrary.PDF: 'pdf'>, (<DecoderLibrary.SOUND: 'sound'>, 'ogg'))

    Raises:
        MediumError: empty, a playlist or other text, or a format that is not accepted.

    """
    if not head.strip(b"\0"):
        raise MediumError.of("media_empty", "The file is empty." if not head else "The file holds only zeros.")
    if _is_picture(head):
        return DecoderLibrary.PICTURE, ""
    if b"%PDF-" in head[:1024]:
        return DecoderLibrary.PDF, "pdf"
    if (sound := _sound(head)) is not None:
        return DecoderLibrary.SOUND, sound
    _refuse(head)
    return DecoderLibrary.CONTAINER, ""


def _is_picture(head: bytes) -> bool:
    brand = head[8:12] if head[4:8] == b"ftyp" else b""
    return (
        head.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"))
        or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
        or brand in HEIF_BRANDS
    )


def _sound(head: bytes) -> str | None:
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return "wav"
    if head[:4] == b"OggS":
        if b"theora" in head[:256]:
            raise MediumError.of("media_type_unsupported", "Ogg video is not accepted.", "Convert it to mp4 or webm.")
        return "ogg"
    return next((name for magic, name in SOUND.items() if head.startswith(magic)), None)


def _refuse(head: bytes) -> None:
    picture = next((name for magic, name in REFUSED_PICTURES.items() if head.startswith(magic)), None)
    if picture is None and head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"):
        picture = "avif"
    if picture is not None:
        raise MediumError.of(
            "media_type_unsupported",
            f"Pictures of type {picture} are not accepted.",
            "Convert it to png, jpeg, webp, heic or heif.",
        )
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(PLAYLISTS):
        raise MediumError.of(
            "media_playlist", "The file is a playlist, not a medium; what it names is not followed.", "Name the medium."
        )
    if _is_text(head):
        raise MediumError.of("media_is_text", "The file is text, not a medium.", "See whether the right file is named.")


def _is_text(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut in two
    except UnicodeDecodeError:
        return False
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def declared_num_bytes(head: bytes) -> int | None:
    r"""How long a Matroska or WebM file says it is; `None` if it is another kind, or was recorded without knowing.

    >>> declared_num_bytes(b"\x1a\x45\xdf\xa3\x81\0" + b"\x18\x53\x80\x67\x41\x00")
    268
    >>> (declared_num_bytes(b"\x1a\x45\xdf\xa3\x81\0" + b"\x18\x53\x80\x67\x01" + b"\xff" * 7),
    ...  declared_num_bytes(b"other"))
    (None, None)
    """
    if not head.startswith(EBML):
        return None
    size, start = _vint(head, len(EBML))
    if size is None or not head.startswith(SEGMENT, start + size):
        return None
    length, data = _vint(head, start + size + len(SEGMENT))
    return None if length is None else data + length


def _vint(data: bytes, at: int) -> tuple[int | None, int]:
    """The number at `at` in EBML's variable length (`None`: unknown), and where it ends."""
    if at >= len(data) or data[at] == 0:
        return None, at
    num_bytes = 9 - data[at].bit_length()
    bits = 7 * num_bytes
    value = int.from_bytes(data[at : at + num_bytes], "big") & ((1 << bits) - 1)
    return (None if value == (1 << bits) - 1 else value), at + num_bytes
