"""Frames of a video against ffmpeg: `python -m bench.sampling [--clips FOLDER]`. Some 6 minutes on two idle cores.

Five minutes of 1080p at one frame a second, scaled to 256 x 256 in RGB: by Kastor (which frames to take, and their
decoding, both in child processes as in the worker) and by the ffmpeg command that gives the same frames. Videos are
generated once (3 minutes each) from the clips of a folder, or from moving noise, in groups of at most 250 pictures and
of 30, with a keyframe at each cut. Prints processor seconds of all processes (user and system) and wall time, as
medians of interleaved runs, and how far the frames differ.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.bars import Bar, at_most, report
from bench.films import Film, made
from kastor.domain.media import FrameSampling
from kastor.media.decode import request_frames
from kastor.media.probe import plan
from kastor.settings import load_settings

SIDE = 256
CPU_BARS = {250: 0.6, 30: 0.4}  # pictures in a group -> share of ffmpeg's processor time
MOST_APART = 4.0  # of 255, on average: scalers differ by 1 to 2, a neighbouring frame of footage by more

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run took."""

    cpu_s: float
    wall_s: float


def ffmpeg_command() -> str:
    """The ffmpeg on the path, or the one that imageio-ffmpeg carries."""
    found = shutil.which("ffmpeg")
    if found is None:
        try:
            from imageio_ffmpeg import get_ffmpeg_exe
        except ImportError:
            raise SystemExit("There is no ffmpeg on the path: install it, or Kastor with the extra bench.") from None
        found = str(get_ffmpeg_exe())
    return found


def by_kastor(film: Path) -> list[Pixels]:
    """The frames as the worker takes them."""
    planned = plan(film, FrameSampling(fps=1.0)).plan
    return [frame.pixels for frame in request_frames(film, planned, (SIDE, SIDE))]


def by_ffmpeg(film: Path) -> list[Pixels]:
    """The frames on show at each second, by the command."""
    with tempfile.NamedTemporaryFile(suffix=".rgb") as raw:
        command = [ffmpeg_command(), "-nostdin", "-v", "error", "-y", "-i", str(film)]
        command += ["-vf", f"fps=1:round=up,scale={SIDE}:{SIDE}", "-pix_fmt", "rgb24", "-f", "rawvideo", raw.name]
        subprocess.run(command, check=True)  # noqa: S603  # our own values
        return list(np.fromfile(raw.name, np.uint8).reshape(-1, SIDE, SIDE, 3))


def timed(sample: Callable[[Path], list[Pixels]], film: Path) -> tuple[Run, list[Pixels]]:
    """One run: processor time of this process and of its children, and the frames."""
    cpu, began = _cpu_s(), time.perf_counter()
    found = sample(film)
    return Run(_cpu_s() - cpu, time.perf_counter() - began), found


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def apart(ours: list[Pixels], theirs: list[Pixels]) -> float:
    """The largest mean difference of two frames of the same moment, of 255."""
    pairs = list(zip(ours, theirs, strict=False))
    return max(float(np.abs(one.astype(np.int16) - other).mean()) for one, other in pairs)


def compared(film: Path, gop: int, repeats: int) -> tuple[list[Bar], dict[str, object]]:
    """Both on one film, in turn."""
    runs: dict[str, list[Run]] = {"kastor": [], "ffmpeg": []}
    for _ in range(repeats):
        mine, ours = timed(by_kastor, film)
        other, theirs = timed(by_ffmpeg, film)
        runs["kastor"].append(mine)
        runs["ffmpeg"].append(other)
        print(f"  kastor {mine.cpu_s:5.1f} CPU s, {mine.wall_s:5.1f} s   ", end="", file=sys.stderr)
        print(f"ffmpeg {other.cpu_s:5.1f} CPU s, {other.wall_s:5.1f} s", file=sys.stderr)
    cpu = {who: statistics.median(run.cpu_s for run in held) for who, held in runs.items()}
    wall = {who: statistics.median(run.wall_s for run in held) for who, held in runs.items()}
    difference = apart(ours, theirs)
    print(f"{film.name}: {film.stat().st_size / 1e6:.0f} MB, {len(ours)} and {len(theirs)} frames")
    print(f"  processor time {cpu['kastor']:.1f} s against {cpu['ffmpeg']:.1f} s")
    print(
        f"  wall           {wall['kastor']:.1f} s against {wall['ffmpeg']:.1f} s: {wall['kastor'] / wall['ffmpeg']:.2f}"
    )
    bars = [
        at_most(f"groups of {gop}, share of ffmpeg's processor time", cpu["kastor"] / cpu["ffmpeg"], CPU_BARS[gop]),
        at_most(f"groups of {gop}, frames apart on average, of 255", difference, MOST_APART),
        at_most(f"groups of {gop}, more or fewer frames", abs(len(ours) - len(theirs)), 0),
    ]
    return bars, {who: [asdict(run) for run in held] for who, held in runs.items()}


def main() -> None:
    """Make the films that are missing, run, print."""
    parser = argparse.ArgumentParser(prog="bench.sampling", description=__doc__)
    parser.add_argument("--clips", type=Path, help="a folder of videos to make the films of; moving noise without it")
    parser.add_argument("--gop", type=int, choices=tuple(CPU_BARS), help="only the film with such groups of pictures")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write all measurements there")
    given = parser.parse_args()
    cache = load_settings().cache_dir
    bars, figures = [], {}
    for gop in (given.gop,) if given.gop else CPU_BARS:
        film = made(Film(gop=gop), cache, given.clips)
        found, figures[film.name] = compared(film, gop, given.repeats)
        bars += found
    sys.exit(report(bars, figures, given.json))


if __name__ == "__main__":
    main()
