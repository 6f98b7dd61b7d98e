"""The media of a prepared dataset made, several at a time; what is done is noted, so that it is done once.

media/…        the new files; each appears under its name only when it is whole
state.jsonl    one line for each finished source: how it was made, of which parts it consists
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fractions import Fraction
from pathlib import Path
from typing import Any

import orjson

from kastor.dataset.prepare.plan import MediaAction, MediaStep, VideoPart
from kastor.domain.content import Media
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import MediaFault, MediaKind, MediumError
from kastor.media.decode_limits import DecodeLimits
from kastor.media.segment_plan import Segment, SegmentLimits
from kastor.media.transcode import PART, copy_segment, exact_seconds, request_segment, request_segments, shrink_picture

MEDIA, STATE = "media", "state.jsonl"
MAX_HALVINGS = 6
STEM_CHARS = 40

Made = tuple[VideoPart, ...] | MediaFault
Fetch = Callable[[Media], Path]
"""Where a medium's file lies on this machine, kept there for as long as the preparation lasts."""
OnDone = Callable[[MediaStep, Made], None]


class MediaBuilder:
    """Makes media in one output folder. Originals are only read."""

    def __init__(self, folder: Path, limits: DatasetLimits, fetch: Fetch, guards: DecodeLimits) -> None:
        self._folder = folder
        self._fetch = fetch
        self._limits = limits
        self._guards = guards

    def make(self, steps: Iterable[MediaStep], num_jobs: int, on_done: OnDone) -> dict[str, Made]:
        """The parts of each step's source, or why there are none; those of an earlier run are taken as they are.

        Raises:
            FailedPrecondition: the folder cannot be written to.

        """
        (self._folder / MEDIA).mkdir(parents=True, exist_ok=True)
        for left in (self._folder / MEDIA).glob(f"*{PART}"):
            left.unlink()
        earlier = self._earlier()
        made: dict[str, Made] = {}
        waiting: list[MediaStep] = []
        for step in steps:
            known = earlier.get(self._recipe(step))
            if known is None:
                waiting.append(step)
            else:
                made[step.need.source.key] = known
                on_done(step, known)
        with ThreadPoolExecutor(max(1, num_jobs), thread_name_prefix="prepare") as threads:
            tasks = {threads.submit(self._made, step): step for step in waiting}
            try:
                for task in as_completed(tasks):
                    step = tasks[task]
                    made[step.need.source.key] = task.result()
                    self._note(step, task.result())
                    on_done(step, task.result())
            except OSError as error:
                raise FailedPrecondition(f"Cannot write to {self._folder}: {error.strerror or error}.") from error
            finally:
                threads.shutdown(cancel_futures=True)
        return made

    def _made(self, step: MediaStep) -> Made:
        try:
            if step.need.source.probe.kind is not MediaKind.VIDEO:
                return self._picture(step)
            if step.act is MediaAction.CUT:
                return self._cut(step)
            return self._shrunk(step)
        except MediumError as bad:
            return bad.fault

    def _picture(self, step: MediaStep) -> Made:
        to = self._path(step, "small", ".jpg")
        made = shrink_picture(self._original(step), to, step.need.lines, self._limits.max_image_bytes, self._guards)
        return (VideoPart(made.path.name, made.mime_type, Fraction(0), Fraction(0)),)

    def _shrunk(self, step: MediaStep) -> Made:
        """The whole video with fewer pixels; cut if that is not enough."""
        source, to = step.need.source, self._path(step, "small", ".mp4")
        most = self._limits.max_video_bytes
        try:
            request_segment(self._original(step), None, to, source.probe, step.need.lines, most, self._guards)
        except MediumError as bad:
            if bad.fault.rule != "piece_too_large":
                raise
            return self._cut(step)
        return (VideoPart(to.name, "video/mp4", Fraction(0), exact_seconds(source.probe.duration_s or 0)),)

    def _cut(self, step: MediaStep) -> Made:
        longest = None if step.need.max_s is None else exact_seconds(step.need.max_s)
        pieces = request_segments(
            self._original(step), SegmentLimits(self._limits.max_video_bytes, longest), self._guards
        )
        parts: list[VideoPart] = []
        for piece in pieces:
            parts += self._piece(step, piece, len(parts), halvings=0)
        return tuple(parts)

    def _piece(self, step: MediaStep, piece: Segment, number: int, *, halvings: int) -> list[VideoPart]:
        source, most = step.need.source, self._limits.max_video_bytes
        to = self._path(step, f"{number + 1:03d}", ".mp4")
        if piece.copied:
            made = copy_segment(self._original(step), piece, to, self._guards)
            if most is None or made.num_bytes <= most:
                return [VideoPart(to.name, made.mime_type, piece.start_s, piece.end_s)]
            to.unlink()
        try:
            request_segment(self._original(step), piece, to, source.probe, step.need.lines, most, self._guards)
        except MediumError as bad:
            if bad.fault.rule != "piece_too_large" or halvings == MAX_HALVINGS:
                raise
            parts: list[VideoPart] = []
            for half in piece.halves():
                parts += self._piece(step, half, number + len(parts), halvings=halvings + 1)
            return parts
        return [VideoPart(to.name, "video/mp4", piece.start_s, piece.end_s)]

    def _original(self, step: MediaStep) -> Path:
        """Raises `MediumError` if it is gone."""
        return self._fetch(step.need.medium).absolute()

    def _path(self, step: MediaStep, what: str, suffix: str) -> Path:
        return self._folder / MEDIA / f"{stem_of(step.need.source.key)}-{_short(self._recipe(step))}-{what}{suffix}"

    def _recipe(self, step: MediaStep) -> str:
        """What decides the outcome, as a name."""
        need = step.need
        most = (self._limits.max_video_bytes, self._limits.max_image_bytes)
        return f"{need.source.sha256[:16]}-{step.act}-{need.lines}-{need.max_s}-{most[0]}-{most[1]}"

    def _note(self, step: MediaStep, made: Made) -> None:
        """Remember a finished source; failures are tried again."""
        if isinstance(made, MediaFault):
            return
        line = orjson.dumps(
            {
                "recipe": self._recipe(step),
                "source": step.need.source.key[:2000],
                "parts": [[p.name, p.mime_type, str(p.start_s), str(p.end_s), self._size(p.name)] for p in made],
            }
        )
        with (self._folder / STATE).open("ab") as file:
            file.write(b"\n" + line + b"\n")  # a line that was cut off before stays by itself
            file.flush()
            os.fsync(file.fileno())

    def _earlier(self) -> Mapping[str, tuple[VideoPart, ...]]:
        """What earlier runs have finished and is still there; a line that was cut off counts for nothing."""
        try:
            lines = (self._folder / STATE).read_bytes().split(b"\n")
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                noted = orjson.loads(line)
                parts, whole = self._noted(noted["parts"])
                if whole:
                    found[str(noted["recipe"])] = parts
            except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                continue
        return found

    def _noted(self, fields: Sequence[Any]) -> tuple[tuple[VideoPart, ...], bool]:
        parts = tuple(VideoPart(name, kind, Fraction(start), Fraction(end)) for name, kind, start, end, _ in fields)
        return parts, all(self._size(name) == size for name, _, _, _, size in fields)

    def _size(self, name: str) -> int:
        try:
            return (self._folder / MEDIA / name).stat().st_size
        except FileNotFoundError:
            return -1


def _short(recipe: str) -> str:
    return hashlib.sha256(recipe.encode()).hexdigest()[:12]


def stem_of(key: str) -> str:
    """A file name's beginning that people recognise.

    >>> stem_of("gs://bucket/a film (1).mp4"), stem_of("sha256:0123")
    ('a-film-1', 'sha256-0123')
    """
    last = key.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    words = "".join(c if c.isascii() and c.isalnum() else "-" for c in last).split("-")
    return "-".join(word for word in words if word)[:STEM_CHARS] or "medium"
