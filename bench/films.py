"""Videos for benchmarks, generated once by PyAV and kept: joined scenes, light noise, x264, looped by stream copy.

Scenes are real clips from a folder or, without one, moving textured noise. The loop length, bit rate and groups of
pictures are those of common footage, because decoding time depends on them.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import av.error
import numpy as np
from numpy.typing import NDArray

SCENES = (313, 283, 310, 295, 311, 303)
"""Frames of each scene: groups of pictures begin at cuts, so that samples at whole seconds fall anywhere in them."""

NOISE_DEVIATION = 2.0  # of 255, on the luma
NUM_NOISES = 8
RECIPE = 2  # counts changes to how films are made

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Film:
    """Parameters of a video."""

    width: int = 1920
    height: int = 1080
    fps: int = 30
    loops: int = 5  # of all scenes: 60.5 s at 30 frames a second
    bit_rate: int = 2_400_000
    gop: int = 250
    seed: int = 0
    preset: str = "medium"


def made(film: Film, cache: Path, clips: Path | None) -> Path:
    """The video's file, generated if it does not exist."""
    sources = sorted(path for path in clips.iterdir() if _moves(path))[: len(SCENES)] if clips is not None else []
    if clips is not None and not sources:
        raise SystemExit(f"{clips} holds no video that can be decoded.")
    said = repr((RECIPE, asdict(film), [(path.name, path.stat().st_size) for path in sources]))
    folder = cache / "bench" / "films"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{film.height}p-gop{film.gop}-{hashlib.sha256(said.encode()).hexdigest()[:12]}.mp4"
    if not target.exists():
        part = target.with_suffix(f".{os.getpid()}.part")
        if film.loops == 1:
            _encode(film, sources, part)
        else:
            _looped(made(replace(film, loops=1), cache, clips), part, film)
        part.rename(target)
    return target


def _moves(path: Path) -> bool:
    try:
        with av.open(str(path)) as container:
            return bool(container.streams.video) and next(container.decode(video=0), None) is not None
    except (av.error.FFmpegError, OSError):
        return False


def _encode(film: Film, sources: Sequence[Path], target: Path) -> None:
    rng = np.random.default_rng(film.seed)
    noises = [rng.normal(0, NOISE_DEVIATION, (film.height, film.width)).astype(np.int16) for _ in range(NUM_NOISES)]
    options = {"preset": film.preset, "g": str(film.gop)}
    with av.open(str(target), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=film.fps, options=options)
        stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
        stream.bit_rate = film.bit_rate
        stream.codec_context.time_base = Fraction(1, film.fps)
        for number, planes in enumerate(_pictures(film, sources, rng)):
            luma = planes[: film.height]
            luma[:] = np.clip(luma.astype(np.int16) + noises[number % NUM_NOISES], 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, film.fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(film: Film, sources: Sequence[Path], rng: np.random.Generator) -> Iterator[Pixels]:
    """Frames of all scenes, one after the other, as planes of yuv420p: (3/2 height, width)."""
    for scene, num_frames in enumerate(SCENES):
        shown = _clip(sources[scene % len(sources)], film) if sources else _drifting(film, rng)
        for _ in range(num_frames):
            yield next(shown).copy()


def _clip(path: Path, film: Film) -> Iterator[Pixels]:
    """A clip's frames at the film's rate and size, again from its beginning when it is over."""
    while True:
        with av.open(str(path)) as container:
            due = 0
            first: float | None = None
            for frame in container.decode(video=0):
                at = frame.time if frame.time is not None else due / film.fps
                first = at if first is None else first
                if at - first < due / film.fps:
                    continue
                planes = frame.reformat(film.width, film.height, "yuv420p").to_ndarray()
                while at - first >= due / film.fps:
                    due += 1
                    yield planes


def _drifting(film: Film, rng: np.random.Generator) -> Iterator[Pixels]:
    """A texture, rough and fine, that slides under the frame."""
    width, height = film.width, film.height
    sheet = np.zeros((3 * height // 2, 2 * width), np.float32)
    for cell, weight in ((96, 60.0), (24, 25.0), (6, 8.0)):
        rough = rng.normal(size=(sheet.shape[0] // cell + 2, sheet.shape[1] // cell + 2)).astype(np.float32)
        sheet += weight * np.kron(rough, np.ones((cell, cell), np.float32))[: sheet.shape[0], : sheet.shape[1]]
    texture = np.clip(sheet + 128, 0, 255).astype(np.uint8)
    step = rng.integers(1, 5)
    at = 0
    while True:
        planes = np.full((3 * height // 2, width), 128, np.uint8)
        planes[:height] = texture[at % (height // 2) :][:height, at % width :][:, :width]
        yield planes
        at += step


def _looped(loop: Path, target: Path, film: Film) -> None:
    """The loop so many times, its packets copied."""
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = None
        for number in range(film.loops):
            with av.open(str(loop)) as source:
                video = source.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(video)
                length = round(Fraction(sum(SCENES), film.fps) / (video.time_base or Fraction(1)))
                for packet in source.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + number * length, packet.dts + number * length
                    packet.stream = stream
                    container.mux(packet)
