"""Short videos whose frames show their own number, in any container and codec that PyAV can write."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

COLUMNS, ROWS = 4, 3  # blocks of black and white: twelve bits
CLOCK = Fraction(1, 1000)


@dataclass(frozen=True)
class Recipe:
    """How a film is made; `times_ms` are the moments of its frames, `rate` a second if absent."""

    codec: str = "libx264"
    num_frames: int = 25
    rate: int = 10
    times_ms: tuple[int, ...] = ()
    size: tuple[int, int] = (64, 48)
    pix_fmt: str = "yuv420p"
    gop: int = 10
    codec_options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    format: str | None = None
    rotation: int = 0
    skipped: int = 0  # frames before time zero: an edit list hides them
    sound: bool = False  # from time zero, to the last frame
    noise: bool = False
    begins_ms: int = 0  # when the first frame is shown
    last_ms: int = 0  # how long the last frame lasts, where the codec does not say it
    aspect: Fraction = Fraction(1)  # of a pixel
    thumbnail: str = ""  # codec of a track of one other picture that comes first

    @property
    def moments_ms(self) -> tuple[int, ...]:
        """When each frame is shown."""
        times = self.times_ms or tuple(1000 * i // self.rate for i in range(self.num_frames))
        return tuple(time - times[self.skipped] + self.begins_ms for time in times)


def painted(number: int, size: tuple[int, int], *, noise: bool = False) -> NDArray[np.uint8]:
    """A picture of the number, (height, width, 3)."""
    width, height = size
    bits = np.array([number >> i & 1 for i in range(COLUMNS * ROWS)], np.uint8).reshape(ROWS, COLUMNS)
    ys, xs = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    picture = np.where(bits[np.ix_(ys, xs)], 220, 30).astype(np.uint8)
    if noise:
        picture = picture + np.random.default_rng(number).integers(0, 30, picture.shape, dtype=np.uint8)
    return np.repeat(picture[:, :, None], 3, axis=2)


def number_in(picture: NDArray[np.uint8]) -> int:
    """The number that a picture shows."""
    height, width = picture.shape[:2]
    ys = (2 * np.arange(ROWS) + 1) * height // (2 * ROWS)
    xs = (2 * np.arange(COLUMNS) + 1) * width // (2 * COLUMNS)
    bits = [picture[y - 2 : y + 3, x - 2 : x + 3].mean() > 128 for y in ys for x in xs]
    return sum(int(bit) << i for i, bit in enumerate(bits))


def make_film(path: Path, recipe: Recipe | None = None) -> Path:
    """Write a film; returns its path."""
    recipe = recipe or Recipe()
    with av.open(str(path), "w", format=recipe.format, options=dict(recipe.container_options)) as container:
        thumbnail = _thumbnail(container, recipe) if recipe.thumbnail else None
        stream = container.add_stream(
            recipe.codec, rate=recipe.rate, options={"g": str(recipe.gop), **recipe.codec_options}
        )
        stream.width, stream.height = recipe.size
        stream.pix_fmt = recipe.pix_fmt
        stream.codec_context.time_base = CLOCK if recipe.times_ms else Fraction(1, recipe.rate)
        stream.codec_context.sample_aspect_ratio = recipe.aspect
        if recipe.rotation:
            stream.set_display_rotation(recipe.rotation)
        sound = container.add_stream("aac", rate=16000) if recipe.sound else None
        packets = [] if thumbnail is None else thumbnail
        for number, moment in enumerate(recipe.moments_ms):
            frame = av.VideoFrame.from_ndarray(painted(number, recipe.size, noise=recipe.noise), format="rgb24")
            frame.pts = round(moment * CLOCK / stream.codec_context.time_base)
            frame.time_base = stream.codec_context.time_base
            packets += stream.encode(frame)
        packets += stream.encode()
        if recipe.last_ms:
            last = max(packets, key=lambda packet: packet.pts)
            last.duration = round(recipe.last_ms * CLOCK / last.time_base)
        container.mux(packets)
        if sound is not None:
            _add_silence(container, sound, seconds=recipe.moments_ms[-1] / 1000)
    return path


def make_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        _add_silence(container, container.add_stream("aac", rate=16000), seconds=1)
    return path


def numbers_on_screen(recipe: Recipe, moments_s: Sequence[float]) -> list[int]:
    """The frame that is seen at each moment: the last that has begun, and the first before any has."""
    shown = [(moment, number) for number, moment in enumerate(recipe.moments_ms) if number >= recipe.skipped]
    zero = 0 if recipe.sound else shown[0][0]
    return [
        max((frame for frame in shown if frame[0] - zero <= 1000 * moment + 1e-6), default=shown[0])[1]
        for moment in moments_s
    ]


def _thumbnail(container: av.container.OutputContainer, recipe: Recipe) -> list[av.Packet]:
    stream = container.add_stream(recipe.thumbnail, rate=recipe.rate)
    stream.width, stream.height = 2 * recipe.size[0], 2 * recipe.size[1]
    stream.pix_fmt = "yuvj420p" if recipe.thumbnail == "mjpeg" else "yuv420p"
    picture = np.full((stream.height, stream.width, 3), 128, np.uint8)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts = 0
    return [*stream.encode(frame), *stream.encode()]


def _add_silence(container: av.container.OutputContainer, sound: av.AudioStream, *, seconds: float) -> None:
    for i in range(round(seconds * 16000) // 1024):
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 16000, 1024 * i, Fraction(1, 16000)
        container.mux(sound.encode(frame))
    container.mux(sound.encode())


def make_torn_film(path: Path) -> Path:
    """Two pictures, a second apart: the first is sound, so that the file looks well; the other cannot be decoded."""
    make_film(path, Recipe(num_frames=2, rate=1, gop=1, noise=True))
    with av.open(str(path)) as container:
        last = [packet for packet in container.demux(video=0) if packet.size][-1]
        place, size = last.pos or 0, last.size
    content = bytearray(path.read_bytes())
    content[place : place + size] = b"\xff" * size
    path.write_bytes(content)
    return path
