"""The rules for one example; each is a pure function that yields violations.

A *drop* is a row that Google's service leaves out with a notice (too long, too many, unusable media); any other
violation rejects the row. Sources of the rules: vertex-api.md §7, gemini-api.md §7.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.domain.content import Content, Example, FunctionCall, Media, Part, Prompt, Resolution, SupervisedTurns, Text
from kastor.domain.counts import counted
from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.media import MediaFault, MediaKind
from kastor.domain.vision import MediumLayout, VisionSpec

KIND_OF_TYPE = {"image": MediaKind.IMAGE, "video": MediaKind.VIDEO, "audio": MediaKind.AUDIO}
PDF = "application/pdf"
SEEING_BASE_HINT = "choose a base model with vision, such as kastor-nano-vl"
MB = 1_000_000


class TextLimits(Protocol):
    """The limits of a profile that the text rules need."""

    @property
    def max_input_chars(self) -> int | None:
        """The limit for everything before the answer."""

    @property
    def max_output_chars(self) -> int | None:
        """Of the answer."""


@dataclass(frozen=True, slots=True)
class RuleViolation:
    """A reason why an example may not be used for training."""

    path: str  # a field of the example; input | output if it depends on the format; empty for the whole example
    rule: str
    message: str
    hint: str = ""
    drops: bool = False


def text_only_num_chars(example: Example) -> int | None:
    """The number of characters, if the example holds only non-blank texts and learns all answers; a fast check."""
    if example.system is not None or example.tools:
        return None
    number = 0
    for content in example.contents:
        if not content.weight:
            return None
        for part in content.parts:
            if type(part) is not Text:
                return None
            text = part.text
            if not text or text.isspace():
                return None
            number += len(text)
    return number


def text_violations(
    example: Example, limits: TextLimits, supervise: SupervisedTurns = SupervisedTurns.ALL
) -> Iterator[RuleViolation]:
    """Violations of the limits for an example's texts."""
    num_output = len(example.contents[-1].text)
    if limits.max_input_chars is not None:
        num_input = example.prompt.num_chars
        if num_input > limits.max_input_chars:
            yield RuleViolation("input", "input_too_long", too_long(num_input, limits.max_input_chars))
    if limits.max_output_chars is not None and num_output > limits.max_output_chars:
        yield RuleViolation("output", "output_too_long", too_long(num_output, limits.max_output_chars))
    learnt = example.supervised_turns(supervise)
    if not learnt:
        yield RuleViolation("", "nothing_learnt", "every model turn has the weight 0")
    for index in learnt:
        if not _answers(example.contents[index]):
            yield RuleViolation(
                turn_path(example, index), "empty_output", "is empty; there is nothing to learn from it"
            )


def blank_answers(example: Example, supervise: SupervisedTurns) -> Iterator[str]:
    """The paths of learnt turns that hold only whitespace."""
    for index in example.supervised_turns(supervise):
        content = example.contents[index]
        if content.text.isspace() and not any(isinstance(part, FunctionCall) for part in content.parts):
            yield turn_path(example, index)


def _answers(content: Content) -> bool:
    return any(isinstance(part, FunctionCall) or (isinstance(part, Text) and part.text) for part in content.parts)


def turn_path(example: Example, index: int) -> str:
    """The path of this model turn in messages: the output, if it is the last turn."""
    return "output" if index == len(example.contents) - 1 else f"contents[{index}]"


def token_violations(num_tokens: int, max_tokens: int, base: str) -> Iterator[RuleViolation]:
    """Violations of the limits for an example's number of tokens."""
    if num_tokens > max_tokens:
        message = f"{counted(num_tokens, 'token')}, at most {max_tokens:,} fit {base}"
        yield RuleViolation("", "too_many_tokens", message, "shorten it or leave it out", drops=True)


def too_long(number: int, most: int) -> str:
    """The message for a text over its limit."""
    return f"{number:,} characters, at most {most:,} are allowed"


def parts_with_paths(example: Example | Prompt) -> Iterator[tuple[str, Part]]:
    """Every part with its path."""
    for j, part in enumerate(example.system or ()):
        yield f"systemInstruction.parts[{j}]", part
    for i, content in enumerate(example.contents):
        for j, part in enumerate(content.parts):
            yield f"contents[{i}].parts[{j}]", part


def part_violations(
    example: Example, vision: VisionSpec | None, base: str, supervise: SupervisedTurns
) -> Iterator[RuleViolation]:
    """Violations by media that the base does not support, judged by their declared types."""
    learnt = {f"contents[{index}]" for index in example.supervised_turns(supervise)}
    for path, part in parts_with_paths(example):
        if isinstance(part, Media):
            if path.partition(".")[0] in learnt:
                yield RuleViolation(path, "media_in_answer", "media in a model turn: models generate text only")
            elif vision is None:
                yield RuleViolation(path, "text_only_base", f"{base} reads text only", SEEING_BASE_HINT)
            else:
                yield from _type_faults(path, part)


def _type_faults(path: str, part: Media) -> Iterator[RuleViolation]:
    kind = declared_kind(part)
    if kind is MediaKind.AUDIO:
        hint = "training does not support audio; leave it out, or transcribe it as text"
        yield RuleViolation(path, "audio_unsupported", f"{part.mime_type}", hint)
    elif kind is None:
        yield RuleViolation(
            path, "mime_type", f"{part.mime_type} cannot be trained on", f"use image/…, video/… or {PDF}"
        )


def declared_kind(media: Media) -> MediaKind | None:
    """The kind of the medium according to its declared type."""
    return MediaKind.PDF if media.mime_type == PDF else KIND_OF_TYPE.get(media.mime_type.partition("/")[0])


def media_count_violations(example: Example, limits: DatasetLimits) -> Iterator[RuleViolation]:
    """Violations of the limits for the number of media in an example."""
    kinds = [declared_kind(media) for media in example.media]
    for kind, most, rule in (
        (MediaKind.IMAGE, limits.max_images, "too_many_images"),
        (MediaKind.VIDEO, limits.max_videos, "too_many_videos"),
        (MediaKind.PDF, limits.max_pdfs, "too_many_documents"),
    ):
        number = kinds.count(kind)
        if most is not None and number > most:
            message = f"{number} media of the kind {kind.value}, at most {most} are allowed in an example"
            yield RuleViolation("", rule, message, f"the profile is {limits.name}", drops=True)


def media_violations(
    example: Example | Prompt, looked: Mapping[Media, InspectionResult], limits: DatasetLimits, vision: VisionSpec
) -> Iterator[RuleViolation]:
    """Violations in the media files themselves."""
    for path, part in parts_with_paths(example):
        if not isinstance(part, Media):
            continue
        seen = looked[part]
        if isinstance(seen, MediaFault):
            yield RuleViolation(path, seen.rule, seen.message, seen.hint, drops=True)
            continue
        resolution = media_resolution(part, example, vision)
        if resolution not in vision.resolutions:
            yield RuleViolation(path, "media_resolution", f"this base model has no {resolution} resolution")
        elif seen.probe.kind is not declared_kind(part):
            message = f"{part.name} is declared as {part.mime_type} and holds {seen.probe.kind.value}"
            yield RuleViolation(path, "mime_type_wrong", message, "set the right mimeType", drops=True)
        else:
            yield from _SIZE_RULES[seen.probe.kind](path, part, seen, limits, resolution)


def media_notes(example: Example, seen: Mapping[Media, InspectedMedium]) -> Iterator[RuleViolation]:
    """Notes about usable media."""
    for path, part in parts_with_paths(example):
        probe = seen[part].probe if isinstance(part, Media) and part in seen else None
        if probe is None:
            continue
        if probe.hdr:
            message = f"the video is HDR ({probe.hdr}): its colours are shown as they are stored, pale and too dark"
            yield RuleViolation(path, "hdr_video", message, "convert it to SDR (BT.709) for true colours")
        if probe.grey_bits is not None and probe.grey_bits < 16:
            message = f"greyscale values of 16 bits that use only {probe.grey_bits}: shown {probe.grey_bits} bits deep"
            yield RuleViolation(path, "grey_depth", message, "save it with 8 bits if it looks wrong")


def _image_faults(
    path: str, media: Media, seen: InspectedMedium, limits: DatasetLimits, resolution: Resolution
) -> Iterator[RuleViolation]:
    if media.start_s is not None or media.end_s is not None or media.fps is not None:
        yield RuleViolation(path, "segment_of_image", "videoMetadata beside an image", "it is for videos")
    yield from _too_large(path, media, seen, limits.max_image_bytes, "image_too_large")


def _video_faults(
    path: str, media: Media, seen: InspectedMedium, limits: DatasetLimits, resolution: Resolution
) -> Iterator[RuleViolation]:
    yield from _too_large(path, media, seen, limits.max_video_bytes, "video_too_large")
    if limits.max_video_s is None or seen.probe.duration_s is None:
        return
    used, most = segment_duration_s(media, seen.probe.duration_s), limits.max_video_s[resolution]
    if used > most:
        message = f"{used:,.1f} s of {media.name}, at most {most:,.0f} s are allowed at {resolution}"
        hint = "give a segment by videoMetadata; `kastor prepare` does where the answer says when"
        yield RuleViolation(path, "video_too_long", message, hint, drops=True)


def _pdf_faults(
    path: str, media: Media, seen: InspectedMedium, limits: DatasetLimits, resolution: Resolution
) -> Iterator[RuleViolation]:
    yield from _too_large(path, media, seen, limits.max_pdf_bytes, "document_too_large")
    pages = seen.probe.num_pages or 0
    if limits.max_pdf_pages is not None and pages > limits.max_pdf_pages:
        message = f"{pages} pages of {media.name}, at most {limits.max_pdf_pages} are allowed"
        yield RuleViolation(path, "too_many_pages", message, "split the document", drops=True)


def _no_faults(
    path: str, media: Media, seen: InspectedMedium, limits: DatasetLimits, resolution: Resolution
) -> Iterator[RuleViolation]:
    yield from ()


_SIZE_RULES: Mapping[
    MediaKind, Callable[[str, Media, InspectedMedium, DatasetLimits, Resolution], Iterator[RuleViolation]]
] = {
    MediaKind.IMAGE: _image_faults,
    MediaKind.VIDEO: _video_faults,
    MediaKind.PDF: _pdf_faults,
    MediaKind.AUDIO: _no_faults,  # rejected by its declared type
}


def _too_large(path: str, media: Media, seen: InspectedMedium, most: int | None, rule: str) -> Iterator[RuleViolation]:
    if most is not None and seen.file.num_bytes > most:
        size = f"{seen.file.num_bytes / MB:,.1f} MB of {media.name}, at most {most / MB:,.0f} MB are allowed"
        pdf = seen.probe.kind is MediaKind.PDF
        hint = "split the document" if pdf else "make it smaller, as `kastor prepare --strategy shrink` does"
        yield RuleViolation(path, rule, size, hint, drops=True)


def segment_duration_s(media: Media, duration_s: float) -> float:
    """The seconds of a video that an example uses."""
    return max(0.0, min(duration_s, duration_s if media.end_s is None else media.end_s) - (media.start_s or 0.0))


def media_resolution(media: Media, example: Example | Prompt, vision: VisionSpec) -> Resolution:
    """The resolution at which the model sees a medium: its own, the line's, or the family's default."""
    return media.resolution or example.resolution or vision.default


def medium_layout(media: Media, seen: InspectedMedium, resolution: Resolution, vision: VisionSpec) -> MediumLayout:
    """The layout in which the model sees the medium."""
    probe = seen.probe
    if seen.plan is not None:
        grid = vision.layout(resolution, (probe.width or 1, probe.height or 1))
        return MediumLayout(resolution, (grid,) * seen.plan.num_frames, seen.plan.moments_s)
    sizes = [(math.ceil(w), math.ceil(h)) for w, h in probe.page_sizes] or [(probe.width or 1, probe.height or 1)]
    return MediumLayout(resolution, tuple(vision.layout(resolution, size) for size in sizes))
