"""Previews of rows as the model sees them: tokens, which of them are trained on, and thumbnails of sampled frames."""

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
MAX_SHOWN_CHARS = 4000  # of one piece of text
MAX_FRAMES = 16  # per medium
MAX_SIDE = 256
JPEG_QUALITY = 70

Pieces = list[tuple[str, bool]]
"""The text of each token, and whether it is trained on."""


@dataclass(frozen=True, slots=True)
class SampledRow:
    """An accepted row to preview."""

    line: int
    verdict: RowVerdict
    example: Example


class RowSampler:
    """Collects the first accepted rows."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.rows: list[SampledRow] = []

    def add(self, verdict: RowVerdict) -> None:
        """Keep the row if it is accepted and fewer are kept than asked for."""
        if len(self.rows) < self._number and verdict.outcome is RowOutcome.ACCEPTED and verdict.example is not None:
            self.rows.append(SampledRow(verdict.line, verdict, verdict.example))


def token_pieces(renderer: Renderer, row: SampledRow) -> Pieces:
    """The row's tokens as text; tokens that form one character together are one piece."""
    rendered = _render(renderer, row)
    return list(_token_texts(renderer, rendered.token_ids, rendered.supervised))


def preview_sample(
    row: SampledRow, renderer: Renderer | None, supervise: SupervisedTurns, vision: VisionSpec | None = None
) -> PreviewSample:
    """The row as segments, of its source text if there is no tokenizer; thumbnails have the layout of `vision`."""
    views, resampling = _views(row), Resampling.BICUBIC if vision is None else vision.resample
    thumbs = {
        media: _thumbnails(media, seen, views[media].grids if media in views else (), resampling)
        for media, seen in (row.verdict.seen or {}).items()
    }
    if renderer is None:
        return PreviewSample(row.line, None, tuple(_source_segments(row.example, thumbs, supervise)))
    rendered = _render(renderer, row)
    return PreviewSample(row.line, len(rendered.token_ids), tuple(_segments(renderer, rendered, thumbs, views)))


def _render(renderer: Renderer, row: SampledRow) -> RenderedExample:
    return renderer.example(row.example, _views(row))


def _views(row: SampledRow) -> MediaLayouts:
    return row.verdict.plan.views if row.verdict.plan else NO_LAYOUTS


def _token_texts(renderer: Renderer, ids: Sequence[int], supervised: Sequence[bool]) -> Iterator[tuple[str, bool]]:
    pending: list[int] = []
    for token, learnt in zip(ids, supervised, strict=True):
        pending.append(token)
        text = renderer.tokenizer.decode(pending, skip_special_tokens=False)
        if HALF_CHARACTER not in text:
            yield text, learnt
            pending = []


Thumbnails = Mapping[int, PreviewSegment] | PreviewSegment
"""Some of a medium's pictures by index, or a note why they cannot be shown."""


def _segments(
    renderer: Renderer, rendered: RenderedExample, thumbs: Mapping[Media, Thumbnails], views: MediaLayouts
) -> Iterator[PreviewSegment]:
    at = 0
    for media, group in groupby(rendered.pictures, key=lambda one: one.media):
        spans = list(group)
        moments_s, vision = views[media].moments_s, renderer.vision
        assert vision is not None  # noqa: S101  # rows with pictures need a vision base
        # the timestamp before the first frame is shown as its caption, like those of the others
        yield from _text_segments(
            renderer, rendered, at, spans[0].start, without=vision.moment(moments_s[0]) if moments_s else ""
        )
        found = thumbs.get(media, {})
        yield from (found,) if isinstance(found, PreviewSegment) else _thumbnail_segments(spans, found)
        at = spans[-1].start + spans[-1].num_tokens
    yield from _text_segments(renderer, rendered, at, len(rendered.token_ids))


def _thumbnail_segments(spans: Sequence[PictureSpan], found: Mapping[int, PreviewSegment]) -> Iterator[PreviewSegment]:
    """A medium's thumbnails, with notes that count the pictures between them."""
    left_out = 0
    for one in spans:
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


def _text_segments(
    renderer: Renderer, rendered: RenderedExample, begin: int, end: int, without: str = ""
) -> Iterator[PreviewSegment]:
    """Tokens [begin, end) as runs of prompt and supervised text; `without` is cut off the end of each."""
    for learnt, group in groupby(range(begin, end), key=lambda index: rendered.supervised[index]):
        ids = [rendered.token_ids[index] for index in group]
        text = renderer.tokenizer.decode(ids, skip_special_tokens=False).removesuffix(without)
        yield from _truncated(text, "learnt" if learnt else "given")


def _truncated(text: str, kind: str) -> Iterator[PreviewSegment]:
    yield PreviewSegment(kind, text[:MAX_SHOWN_CHARS])
    if len(text) > MAX_SHOWN_CHARS:
        yield PreviewSegment("note", f" … {len(text) - MAX_SHOWN_CHARS:,} more characters … ")


def _source_segments(
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
        yield from _truncated(part.text, kind)
    elif isinstance(part, Media):
        found = thumbs.get(part, {})
        yield from (found,) if isinstance(found, PreviewSegment) else found.values()
    else:
        yield from _truncated(
            f"{part.name} {part.arguments if isinstance(part, FunctionCall) else part.response}", kind
        )


def _thumbnails(media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling) -> Thumbnails:
    """Thumbnails in the aspect ratio that the model sees; `grids` holds one grid per picture."""
    try:
        return dict((_video_frames if seen.plan is not None else _still_pictures)(media, seen, grids, resample))
    except (MediumError, OSError) as error:
        return PreviewSegment("note", f" [{media.name} cannot be shown: {error}] ")


def _video_frames(
    media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling
) -> Iterator[tuple[int, PreviewSegment]]:
    plan = seen.plan
    assert plan is not None  # noqa: S101  # checked by the caller
    chosen = _evenly_spaced(plan.num_frames)
    some = replace(
        plan,
        moments_s=tuple(plan.moments_s[index] for index in chosen),
        pts=tuple(plan.pts[index] for index in chosen),
    )
    size = _size(grids, 0, seen.probe.width, seen.probe.height)
    frames = request_frames(seen.file.path, some, size, resample=resample)
    for index, frame in zip(chosen, frames, strict=True):
        moment = clock_timestamp(frame.moment_s)
        yield (
            index,
            PreviewSegment("picture", f"{media.name} at {moment}", jpeg(frame.pixels), moment, _file_name(media)),
        )


def _still_pictures(
    media: Media, seen: InspectedMedium, grids: Sequence[Grid], resample: Resampling
) -> Iterator[tuple[int, PreviewSegment]]:
    pages = seen.probe.num_pages or 1
    for index in _evenly_spaced(pages):
        width, height = (seen.probe.width, seen.probe.height)
        if seen.probe.page_sizes:
            width, height = (round(side) for side in seen.probe.page_sizes[min(index, len(seen.probe.page_sizes) - 1)])
        pixels = request_picture(seen.file.path, _size(grids, index, width, height), page=index, resample=resample)
        caption = f"page {index + 1}" if pages > 1 else ""
        yield index, PreviewSegment("picture", media.name, jpeg(pixels), caption, _file_name(media))


def _size(grids: Sequence[Grid], index: int, width: int | None, height: int | None) -> tuple[int, int]:
    """The thumbnail's size, with the aspect ratio of the model's grid if it is known."""
    if grids:
        grid = grids[min(index, len(grids) - 1)]
        width, height = grid.width, grid.height
    return _thumbnail_size(width or MAX_SIDE, height or MAX_SIDE)


def _file_name(media: Media) -> str:
    return media.uri.rstrip("/").rsplit("/", 1)[-1] or "inline data"


def _evenly_spaced(number: int) -> list[int]:
    """At most `MAX_FRAMES` evenly spaced indices, the first and the last among them.

    >>> _evenly_spaced(3), _evenly_spaced(151)[:3], _evenly_spaced(151)[-1]
    ([0, 1, 2], [0, 10, 20], 150)
    """
    if number <= MAX_FRAMES:
        return list(range(number))
    return [index * (number - 1) // (MAX_FRAMES - 1) for index in range(MAX_FRAMES)]


def _thumbnail_size(width: int, height: int) -> tuple[int, int]:
    """The size, scaled down to `MAX_SIDE` if it is larger.

    >>> _thumbnail_size(1024, 512), _thumbnail_size(90, 160)
    ((256, 128), (90, 160))
    """
    scale = min(1.0, MAX_SIDE / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def jpeg(pixels: Pixels) -> bytes:
    """Encode pixels as JPEG. They were decoded in a confined child process, so this handles no untrusted file."""
    import PIL.Image  # only needed for HTML reports

    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()
