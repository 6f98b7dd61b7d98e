"""Rows as the model sees them: tokens with what is learnt, and small pictures of the frames that are taken."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.validation.report_html import PreviewSample, PreviewSegment
from kastor.dataset.validation.validator import RowOutcome, RowVerdict
from kastor.domain.content import Example, FunctionCall, Media, Part, SupervisedTurns, Text
from kastor.domain.media import MediumError, Resampling
from kastor.domain.vision import NO_LAYOUTS, Grid, MediaLayouts, VisionSpec, clock_timestamp
from kastor.media.decode import Pixels, request_frames, request_picture
from kastor.models.chat.render import PictureSpan, RenderedExample, Renderer

HALF_CHARACTER = "\ufffd"
MAX_SHOWN_CHARS = 4000  # of one stretch of text
MAX_FRAMES = 16  # of one medium
MAX_SIDE = 256
JPEG_QUALITY = 70

Pieces = list[tuple[str, bool]]
"""Each token's text, and whether it is learnt."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """An accepted row, kept to be shown."""

    line: int
    verdict: RowVerdict
    example: Example


class RowSampler:
    """The first accepted rows."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.rows: list[SampledRow] = []

    def add(self, verdict: RowVerdict) -> None:
        """Keep the row, if it is one of the first."""
        if len(self.rows) < self._number and verdict.outcome is RowOutcome.ACCEPTED and verdict.example is not None:
            self.rows.append(SampledRow(verdict.line, verdict, verdict.example))


def token_pieces(renderer: Renderer, kept: SampledRow) -> Pieces:
    """The row's tokens as text; those that only together make a character are shown together."""
    rendered = _rendered(renderer, kept)
    return list(_decoded(renderer, rendered.token_ids, rendered.supervised))


def preview_sample(
    kept: SampledRow, renderer: Renderer | None, supervise: SupervisedTurns, vision: VisionSpec | None = None
) -> PreviewSample:
    """The row as segments; without the base's tokenizer as it was written. Pictures are laid out as `vision` does."""
    views, filtered = _views(kept), Resampling.BICUBIC if vision is None else vision.resample
    thumbs = {
        media: _thumbnails(media, seen, views[media].grids if media in views else (), filtered)
        for media, seen in (kept.verdict.seen or {}).items()
    }
    if renderer is None:
        return PreviewSample(kept.line, None, tuple(_written(kept.example, thumbs, supervise)))
    rendered = _rendered(renderer, kept)
    return PreviewSample(kept.line, len(rendered.token_ids), tuple(_segments(renderer, rendered, thumbs, views)))


def _rendered(renderer: Renderer, kept: SampledRow) -> RenderedExample:
    return renderer.example(kept.example, _views(kept))


def _views(kept: SampledRow) -> MediaLayouts:
    return kept.verdict.plan.views if kept.verdict.plan else NO_LAYOUTS


def _decoded(renderer: Renderer, ids: Sequence[int], supervised: Sequence[bool]) -> Iterator[tuple[str, bool]]:
    pending: list[int] = []
    for token, learnt in zip(ids, supervised, strict=True):
        pending.append(token)
        text = renderer.tokenizer.decode(pending, skip_special_tokens=False)
        if HALF_CHARACTER not in text:
            yield text, learnt
            pending = []


Thumbnails = Mapping[int, PreviewSegment] | PreviewSegment
"""Of a medium's pictures some, by their number; or why there are none."""


def _segments(
    renderer: Renderer, rendered: RenderedExample, thumbs: Mapping[Media, Thumbnails], views: MediaLayouts
) -> Iterator[PreviewSegment]:
    at = 0
    for media, group in groupby(rendered.pictures, key=lambda one: one.media):
        held = list(group)
        moments_s, vision = views[media].moments_s, renderer.vision
        assert vision is not None  # noqa: S101  # there are pictures
        # the moment of the first frame is its caption, as those of the others are
        yield from _texts(
            renderer, rendered, at, held[0].start, without=vision.moment(moments_s[0]) if moments_s else ""
        )
        found = thumbs.get(media, {})
        yield from (found,) if isinstance(found, PreviewSegment) else _pictured(held, found)
        at = held[-1].start + held[-1].num_tokens
    yield from _texts(renderer, rendered, at, len(rendered.token_ids))


def _pictured(held: Sequence[PictureSpan], found: Mapping[int, PreviewSegment]) -> Iterator[PreviewSegment]:
    """A medium's pictures; of those that are not shown only how many there are."""
    left_out = 0
    for one in held:
        thumb = found.get(one.index)
        if thumb is None:
            left_out += 1
            continue
        if left_out:
            yield PreviewSegment("note", f" … {left_out:,} more … ")
        yield thumb
        left_out = 0
    if left_out:
        yield PreviewSegment("note", f" … {left_out:,} more … ")


def _texts(
    renderer: Renderer, rendered: RenderedExample, begin: int, end: int, without: str = ""
) -> Iterator[PreviewSegment]:
    """Tokens [begin, end) as stretches of what is given and what is learnt; `without` this at the end."""
    for learnt, group in groupby(range(begin, end), key=lambda index: rendered.supervised[index]):
        ids = [rendered.token_ids[index] for index in group]
        text = renderer.tokenizer.decode(ids, skip_special_tokens=False).removesuffix(without)
        yield from _cut(text, "learnt" if learnt else "given")


def _cut(text: str, kind: str) -> Iterator[PreviewSegment]:
    yield PreviewSegment(kind, text[:MAX_SHOWN_CHARS])
    if len(text) > MAX_SHOWN_CHARS:
        yield PreviewSegment("note", f" … {len(text) - MAX_SHOWN_CHARS:,} more characters … ")


def _written(
    example: Example, thumbs: Mapping[Media, Thumbnails], supervise: SupervisedTurns
) -> Iterator[PreviewSegment]:
    learnt = example.supervised_turns(supervise)
    for part in example.system or ():
        yield from _part(part, thumbs, "given")
    for index, content in enumerate(example.contents):
        yield PreviewSegment("note", f"{content.role.value}: ")
        for part in content.parts:
            yield from _part(part, thumbs, "learnt" if index in learnt else "given")
        yield PreviewSegment("given", "\n")


def _part(part: Part, thumbs: Mapping[Media, Thumbnails], kind: str) -> Iterator[PreviewSegment]:
    if isinstance(part, Text):
        yield from _cut(part.text, kind)
    elif isinstance(part, Media):
        found = thumbs.get(part, {})
        yield from (found,) if isinstance(found, PreviewSegment) else found.values()
    else:
        yield from _cut(f"{part.name} {part.arguments if isinstance(part, FunctionCall) else part.response}", kind)


def _thumbnails(media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling) -> Thumbnails:
    """Its pictures, scaled to the shape in which the model sees them; grids are one a picture."""
    try:
        return dict((_moving if seen.plan is not None else _still)(media, seen, grids, resample))
    except (MediumError, OSError) as error:
        return PreviewSegment("note", f" [{media.name} cannot be shown: {error}] ")


def _moving(
    media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling
) -> Iterator[tuple[int, PreviewSegment]]:
    plan = seen.plan
    assert plan is not None  # noqa: S101  # asked for by the caller
    chosen = _spread(plan.num_frames)
    some = replace(
        plan,
        moments_s=tuple(plan.moments_s[index] for index in chosen),
        pts=tuple(plan.pts[index] for index in chosen),
    )
    size = _size(grids, 0, seen.probe.width, seen.probe.height)
    shown = request_frames(seen.file.path, some, size, resample=resample)
    for index, frame in zip(chosen, shown, strict=True):
        moment = clock_timestamp(frame.moment_s)
        yield (
            index,
            PreviewSegment("picture", f"{media.name} at {moment}", jpeg(frame.pixels), moment, _file_name(media)),
        )


def _still(
    media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling
) -> Iterator[tuple[int, PreviewSegment]]:
    pages = seen.probe.num_pages or 1
    for index in _spread(pages):
        width, height = (seen.probe.width, seen.probe.height)
        if seen.probe.page_sizes:
            width, height = (round(side) for side in seen.probe.page_sizes[min(index, len(seen.probe.page_sizes) - 1)])
        pixels = request_picture(seen.file.path, _size(grids, index, width, height), page=index, resample=resample)
        caption = f"page {index + 1}" if pages > 1 else ""
        yield index, PreviewSegment("picture", media.name, jpeg(pixels), caption, _file_name(media))


def _size(grids: Sequence[Grid], index: int, width: int | None, height: int | None) -> tuple[int, int]:
    """Of one picture as it is shown: the model's, where that is known, or a smaller one of the same shape."""
    if grids:
        grid = grids[min(index, len(grids) - 1)]
        width, height = grid.width, grid.height
    return _fitting(width or MAX_SIDE, height or MAX_SIDE)


def _file_name(media: Media) -> str:
    return media.uri.rstrip("/").rsplit("/", 1)[-1] or "inline data"


def _spread(number: int) -> list[int]:
    """At most `MAX_FRAMES` of so many, evenly apart, the first and the last among them.

    >>> _spread(3), _spread(151)[:3], _spread(151)[-1]
    ([0, 1, 2], [0, 10, 20], 150)
    """
    if number <= MAX_FRAMES:
        return list(range(number))
    return [index * (number - 1) // (MAX_FRAMES - 1) for index in range(MAX_FRAMES)]


def _fitting(width: int, height: int) -> tuple[int, int]:
    """The size, or one of the same shape that is small enough for a page.

    >>> _fitting(1024, 512), _fitting(90, 160)
    ((256, 128), (90, 160))
    """
    scale = min(1.0, MAX_SIDE / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def jpeg(pixels: Pixels) -> bytes:
    """The picture as a small file. What is encoded here was decoded elsewhere, in a child process."""
    import PIL.Image  # only where pages are written

    held = io.BytesIO()
    PIL.Image.fromarray(pixels).save(held, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return held.getvalue()
