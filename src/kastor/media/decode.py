"""Frames of videos, pictures and PDF pages as arrays, decoded in a child process of their own.

A child that dies costs one medium: the caller gets a `BadMedium` and goes on. Frames come as they are decoded, so a
long video takes no memory here.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kastor.domain.media import BadMedium, MediaFault, SamplingPlan
from kastor.media.guards import Guards
from kastor.media.sandbox import Child, ChildDied, Patience

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One sampled frame: the moment asked for, the presentation time of the frame that stands for it, its picture."""

    moment_s: float
    pts: int
    pixels: Pixels  # (height, width, 3), RGB, upright


def frames(
    path: Path, plan: SamplingPlan, size: tuple[int, int] | None = None, guards: Guards | None = None
) -> Iterator[Frame]:
    """The planned frames in order, each scaled to `size` (width, height as shown), or as stored if `None`.

    A frame that stands for several moments comes once for each, with the same array. Closing the iterator early ends
    the child.

    Raises:
        BadMedium: a planned frame is missing or damaged, or decoding asks for too much.

    """
    guards = guards or Guards()
    times = Counter(plan.pts)
    moments = iter(plan.moments_s)
    cpu_s = guards.decode_cpu(plan.duration_s, guards.max_video_pixels)
    request = {"do": "frames", "path": str(path.absolute()), "pts": sorted(times), "size": size, "cpu_s": cpu_s}
    patience = Patience(cpu_s + guards.decode_stall_s)
    with closing(Child(guards)) as child:
        for pts in sorted(times):
            header, raw = _answer(child, request if pts == plan.pts[0] else None, patience)
            if header.get("pts") != pts:
                raise _nonsense()
            pixels = _pixels(header, raw)
            for _ in range(times[pts]):
                yield Frame(next(moments), pts, pixels)


def picture(path: Path, size: tuple[int, int] | None = None, *, page: int = 0, guards: Guards | None = None) -> Pixels:
    """A picture, or page `page` (from 0) of a PDF: (height, width, 3), upright, on white; scaled to `size` if given.

    Raises:
        BadMedium: it is damaged, or unpacking asks for too much.

    """
    guards = guards or Guards()
    request = {
        "do": "picture",
        "path": str(path.absolute()),
        "size": size,
        "page": page,
        "cpu_s": guards.decode_cpu_s,
    }
    with closing(Child(guards)) as child:
        return _pixels(*_answer(child, request, Patience(guards.decode_cpu_s + guards.decode_stall_s)))


def _answer(child: Child, request: dict[str, Any] | None, patience: Patience) -> tuple[dict[str, Any], bytearray]:
    try:
        if request is not None:
            child.send(request)
        header, raw = child.receive(patience)
    except ChildDied as died:
        raise BadMedium.because(died.fault) from died
    fault = header.get("fault")
    if isinstance(fault, list) and len(fault) == 3:
        raise BadMedium.because(MediaFault(*map(str, fault)))
    return header, raw


def _pixels(header: dict[str, Any], raw: bytearray) -> Pixels:
    height, width = header.get("height"), header.get("width")
    if not isinstance(height, int) or not isinstance(width, int) or height * width * 3 != len(raw):
        raise _nonsense()
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def _nonsense() -> BadMedium:
    return BadMedium.of("decoder_crashed", "The decoder's answer makes no sense.", "The file is damaged or hostile.")
