"""Media of prompts: looked at for who asks, held to the rules, and turned into what a model is shown of them.

Files are opened in confined child processes alone; an engine decodes them later. A medium's fault is the caller's.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.media.sampling_record import SamplingRecord
from kastor.dataset.validation.rules import (
    PDF,
    SEEING_BASE_HINT,
    RuleViolation,
    declared_kind,
    media_resolution,
    media_violations,
    medium_layout,
    parts_with_paths,
    segment_duration_s,
)
from kastor.domain.content import Media, Prompt
from kastor.domain.dataset_limits import OPEN_DATASET
from kastor.domain.errors import FieldViolation, InvalidArgument
from kastor.domain.file import FILES
from kastor.domain.generation import ResolvedMedia, ResolvedMedium
from kastor.domain.media import MediaKind
from kastor.domain.permission import Principal
from kastor.domain.request_limits import Limits
from kastor.domain.vision import VisionSpec

OWN_FILE = re.compile(rf"https?://[^/?#]+/v1[a-z0-9]*/(?P<name>{FILES}[a-z0-9-]+)")
"""The address that an upload was answered with. Whoever reaches this server by another name means the same file."""


class MediaInspector(Protocol):
    """What looks at media, wherever it does so."""

    def inspect(
        self, media: tuple[Media, ...], uploads: Callable[[str], Path], *, max_bytes: int, max_s: float
    ) -> Mapping[Media, InspectionResult]:
        """What each medium is, or why it cannot be used; `max_bytes` and `max_s` are for fetching one of them.

        `uploads` gives the path of a name such as `files/abc`. Blocks.

        Raises:
            ResourceExhausted: the disk is full.

        """


@dataclass(frozen=True, slots=True)
class PromptMediaResolver:
    """Inspects the media of prompts."""

    eyes: MediaInspector
    path_of: Callable[[str, Principal], Path]  # of an uploaded file, for who may see it

    def resolve(
        self,
        prompt: Prompt,
        vision: VisionSpec | None,
        base: str,
        caller: Principal,
        limits: Limits,
        trained: Callable[[], SamplingRecord | None] = lambda: None,
    ) -> ResolvedMedia:
        """What the base model called `base`, which sees by `vision`, is shown of the prompt's media.

        `trained` says, of a tuned model, how it was shown media: what the prompt leaves open is as it was then, and a
        video that was trained on is shown by the very same frames.

        Raises:
            InvalidArgument: the base reads text only, or media are too many, too large, or cannot be used; names each
                part, and the rule as the reason.
            ResourceExhausted: the disk is full.
            What `trained` raises.

        """
        media = media_of(prompt)
        if not media:
            if prompt.resolution is not None and vision is None:
                raise InvalidArgument.of("resolution", f"{base} reads text only; leave it out")
            return {}
        _refuse(_declared_faults(prompt, vision, base, limits))
        assert vision is not None  # noqa: S101  # refused above
        as_then = trained() or SamplingRecord()
        prompt = as_then.completed(prompt)
        named = {one: as_then.sampled(_named(one)) for one in media}
        found = self.eyes.inspect(
            tuple(named.values()),
            lambda name: self.path_of(name, caller),
            max_bytes=limits.max_media_bytes,
            max_s=limits.max_look_s,
        )
        looked = {one: found[named[one]] for one in media}
        _refuse(media_violations(prompt, looked, OPEN_DATASET, vision))
        seen = {
            one: as_then.replayed(about, named[one])
            for one, about in looked.items()
            if isinstance(about, InspectedMedium)
        }
        _refuse(_total_faults(prompt, seen, limits))
        places = {part: path for path, part in reversed(list(parts_with_paths(prompt))) if isinstance(part, Media)}
        return {one: _shown(prompt, one, about, vision, places[one], as_then.scaling) for one, about in seen.items()}


def media_of(prompt: Prompt) -> tuple[Media, ...]:
    """The distinct media of a prompt, in the order in which they first occur."""
    return tuple(dict.fromkeys(part for part in prompt.parts if isinstance(part, Media)))


def media_tokens(prompt: Prompt, shown: ResolvedMedia) -> dict[MediaKind, int]:
    """How many of the prompt's tokens are pictures, by the kind of what they come from."""
    counts: dict[MediaKind, int] = {}
    for part in prompt.parts:
        if isinstance(part, Media):
            medium = shown[part].planned
            counts[medium.kind] = counts.get(medium.kind, 0) + medium.view.num_tokens
    return counts


def _named(media: Media) -> Media:
    """The medium under the name that it is fetched by."""
    own = OWN_FILE.fullmatch(media.uri)
    return media if own is None else replace(media, uri=own["name"])


def _shown(
    prompt: Prompt, media: Media, seen: InspectedMedium, vision: VisionSpec, place: str, scaling: int
) -> ResolvedMedium:
    view = medium_layout(media, seen, media_resolution(media, prompt, vision), vision)
    return ResolvedMedium(replace(seen.medium_plan(view), scaling=scaling), seen.file.path.absolute(), place)


def _declared_faults(prompt: Prompt, vision: VisionSpec | None, base: str, limits: Limits) -> Iterator[RuleViolation]:
    """What can be said before anything is opened."""
    held = [(path, part) for path, part in parts_with_paths(prompt) if isinstance(part, Media)]
    for path, part in held:
        if vision is None:
            field = "fileData" if part.uri else "inlineData"
            yield RuleViolation(f"{path}.{field}", "text_only_base", f"{base} reads text only", SEEING_BASE_HINT)
        elif declared_kind(part) not in (MediaKind.IMAGE, MediaKind.VIDEO, MediaKind.PDF):
            message = f"{part.mime_type} cannot be looked at"
            yield RuleViolation(path, "mime_type", message, f"use image/…, video/… or {PDF}")
    if len(held) > limits.max_media:
        yield RuleViolation("contents", "too_many_media", f"{len(held)} media, at most {limits.max_media} are allowed")


def _total_faults(prompt: Prompt, seen: Mapping[Media, InspectedMedium], limits: Limits) -> Iterator[RuleViolation]:
    """What all media come to."""
    num_bytes = sum(one.file.num_bytes for one in seen.values())
    if num_bytes > limits.max_media_bytes:
        message = f"{num_bytes:,} bytes of media, at most {limits.max_media_bytes:,} are allowed"
        yield RuleViolation("contents", "media_too_large", message)
    seconds = sum(segment_duration_s(media, one.probe.duration_s or 0.0) for media, one in seen.items())
    if seconds > limits.max_video_s:
        message = f"{seconds:,.0f} s of video, at most {limits.max_video_s:,.0f} s are allowed"
        yield RuleViolation("contents", "video_too_long", message, "give a segment by videoMetadata")


def _refuse(faults: Iterator[RuleViolation]) -> None:
    found = list(faults)
    if found:
        said = [FieldViolation(f.path, f.message + (f" ({f.hint})" if f.hint else "")) for f in found]
        raise InvalidArgument.of_all(tuple(said), reason=found[0].rule.upper())
