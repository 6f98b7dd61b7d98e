"""Frames of videos, pictures and PDF pages as arrays, decoded in a child process of their own.

A child that dies costs one medium: the caller gets a `MediumError` and goes on. Frames come as they are decoded, so a
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

from kastor.domain.media import MediaFault, MediumError, Resampling, SamplingPlan
from kastor.media.decode_limits import DecodeLimits
from kastor.media.memory_budget import decoder_slot
from kastor.media.sandbox import SandboxCrashed, SandboxProcess, TimeBudget

PICTURES_PER_CHILD = 256

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Frame:
    """One sampled frame: the moment asked for, the presentation time of the frame that stands for it, its picture."""

    moment_s: float
    pts: int
    pixels: Pixels  # (height, width, 3), RGB, upright


def request_frames(
    path: Path,
    plan: SamplingPlan,
    size: tuple[int, int] | None = None,
    guards: DecodeLimits | None = None,
    *,
    resample: Resampling = Resampling.BICUBIC,
) -> Iterator[Frame]:
    """The planned frames in order, each scaled to `size` (width, height as shown), or as stored if `None`.

    swscale's filters give what Pillow's give, to a hundredth (docs/log.md), and for a half to a third of the cost. A
    frame that stands for several moments comes once for each, with the same array. Closing the iterator early ends
    the child.

    Raises:
        MediumError: a planned frame is missing or damaged, or decoding asks for too much.

    """
    guards = guards or DecodeLimits()
    times = Counter(plan.pts)
    moments = iter(plan.moments_s)
    cpu_s = guards.decode_cpu(plan.duration_s, guards.max_video_pixels)
    request = {
        "do": "frames",
        "path": str(path.absolute()),
        "pts": sorted(times),
        "size": size,
        "resample": resample,
        "cpu_s": cpu_s,
    }
    patience = TimeBudget(cpu_s + guards.decode_stall_s)
    with decoder_slot(guards), closing(SandboxProcess(guards)) as child:
        for pts in sorted(times):
            header, raw = _answer(child, request if pts == plan.pts[0] else None, patience)
            if header.get("pts") != pts:
                raise _nonsense()
            pixels = _pixels(header, raw)
            for _ in range(times[pts]):
                yield Frame(next(moments), pts, pixels)


def request_picture(
    path: Path,
    size: tuple[int, int] | None = None,
    *,
    page: int = 0,
    resample: Resampling = Resampling.BICUBIC,
    guards: DecodeLimits | None = None,
) -> Pixels:
    """A picture, or page `page` (from 0) of a PDF: (height, width, 3), upright, on white; scaled to `size` if given.

    Raises:
        MediumError: it is damaged, or unpacking asks for too much.

    """
    with closing(PictureDecoder(guards)) as pictures:
        return pictures.picture(path, size, page=page, resample=resample)


class PictureDecoder:
    """Decodes many pictures in one child process, as starting one costs more than most pictures.

    For one thread at a time, but any thread may `close` it, which ends what it is doing. A child that died with a file
    is replaced; a file is blamed only if it was the first that its child was given.
    """

    def __init__(self, guards: DecodeLimits | None = None) -> None:
        self._guards = guards or DecodeLimits()
        self._child: SandboxProcess | None = None

    def close(self) -> None:
        """End the child process."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def picture(
        self,
        path: Path,
        size: tuple[int, int] | None = None,
        *,
        page: int = 0,
        resample: Resampling = Resampling.BICUBIC,
        scaling: int = 0,
    ) -> Pixels:
        """As the function of this name, by a version of the rules; 0 is the present one.

        Raises:
            MediumError: it is damaged, or unpacking asks for too much.

        """
        request = {
            "do": "picture",
            "path": str(path.absolute()),
            "size": size,
            "resample": resample,
            "page": page,
            "scaling": scaling,
            "cpu_s": self._guards.decode_cpu_s,
        }
        if self._child is not None and self._child.num_answers >= PICTURES_PER_CHILD:
            self.close()
        while True:
            first = self._child is None
            child = self._child = self._child or SandboxProcess(self._guards)
            patience = TimeBudget(self._guards.decode_cpu_s + self._guards.decode_stall_s)
            try:
                with decoder_slot(self._guards):
                    child.send(request)
                    header, raw = child.receive(patience)
            except SandboxCrashed as died:
                self.close()
                if first or died.timed_out:
                    raise MediumError.because(died.fault) from died
                continue  # it may have died of an earlier file's harm
            return _pixels(*_checked(header, raw))


def _answer(
    child: SandboxProcess, request: dict[str, Any] | None, patience: TimeBudget
) -> tuple[dict[str, Any], bytearray]:
    try:
        if request is not None:
            child.send(request)
        header, raw = child.receive(patience)
    except SandboxCrashed as died:
        raise MediumError.because(died.fault) from died
    return _checked(header, raw)


def _checked(header: dict[str, Any], raw: bytearray) -> tuple[dict[str, Any], bytearray]:
    fault = header.get("fault")
    if isinstance(fault, list) and len(fault) == 3:
        raise MediumError.because(MediaFault(*map(str, fault)))
    return header, raw


def _pixels(header: dict[str, Any], raw: bytearray) -> Pixels:
    height, width = header.get("height"), header.get("width")
    if not isinstance(height, int) or not isinstance(width, int) or height * width * 3 != len(raw):
        raise _nonsense()
    return np.frombuffer(raw, np.uint8).reshape(height, width, 3)


def _nonsense() -> MediumError:
    return MediumError.of("decoder_crashed", "The decoder's answer makes no sense.", "The file is damaged or hostile.")
