"""The record of how training sampled media, stored with the dataset and the tuned model, and followed when serving.

    sampling.json   versions of the sampling and scaling rules, each medium's frames (times, sizes, tokens),
                    and the resolution and frames per second that most of the examples' media had

Media are identified by content and segment, each listed once, in the order of their first use.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any

import orjson

from kastor.dataset.media.inspection_result import InspectedMedium
from kastor.dataset.media.plan_codec import decode_medium, encode_medium
from kastor.domain.content import Media, Prompt, Resolution
from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import FrameSampling, MediaKind, SamplingPlan
from kastor.domain.vision import MediumPlan
from kastor.media.frame_sampling import SAMPLING, SCALING

SAMPLING_FILE = "sampling.json"
FORMAT = 1

Versions = Mapping[str, str]


def versions() -> dict[str, str]:
    """The versions of the frame sampling, the picture scaling and the decoders."""
    return {"sampling": str(SAMPLING), "scaling": str(SCALING), "av": version("av")}


def requested_sampling(media: Media) -> FrameSampling:
    """The frame sampling that a medium requests."""
    return FrameSampling(fps=media.fps or 1.0, start_s=media.start_s or 0.0, end_s=media.end_s)


def encode_sampling(shown: Iterable[tuple[Media, MediumPlan]]) -> Iterator[bytes]:
    """The file in chunks; `shown` are the media of all examples, repeated as often as they occur."""
    resolutions, rates, written = Counter[Resolution](), Counter[float](), set[tuple[str, FrameSampling, Resolution]]()
    yield b'{"format":' + orjson.dumps(FORMAT) + b',"versions":' + orjson.dumps(versions()) + b',"media":['
    for media, planned in shown:
        sampling, resolution = requested_sampling(media), planned.view.resolution
        resolutions[resolution] += 1
        if planned.kind is MediaKind.VIDEO:
            rates[sampling.fps] += 1
        key = (planned.sha256, sampling, resolution)
        if key not in written:
            yield (b",\n" if written else b"\n") + orjson.dumps(_object(sampling, planned))
            written.add(key)
    most = {"resolution": _most_common(resolutions), "fps": _most_common(rates)}
    yield b'\n],"usual":' + orjson.dumps(most) + b"}\n"


@dataclass(frozen=True, slots=True)
class SamplingRecord:
    """How a model saw media during training."""

    resolution: Resolution | None = None  # of most media; `None` if there were none
    fps: float | None = None  # of most videos
    plans: Mapping[tuple[str, FrameSampling], SamplingPlan] = field(default_factory=dict)
    made_with: Versions = field(default_factory=dict)

    @classmethod
    def decoded(cls, text: bytes, name: str) -> "SamplingRecord":
        """The record that `encode_sampling` wrote into the file `name`.

        Raises:
            FailedPrecondition: the file is invalid, or this program does not know its sampling or scaling version.

        """
        try:
            held = orjson.loads(text)
            made_with = {key: str(value) for key, value in held["versions"].items()}
            if held["format"] != FORMAT:
                raise FailedPrecondition(
                    f"{name} is in format {held['format']}; this program reads format {FORMAT}. Tune the model again."
                )
            usual = held["usual"]
            plans = {
                _sampling_key(one): medium.frames for one in held["media"] if (medium := decode_medium(one)).frames
            }
            resolution = Resolution(usual["resolution"]) if usual["resolution"] else None
            found = cls(resolution, usual["fps"], plans, made_with)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FailedPrecondition(
                f"{name} is not a valid sampling record: a field is missing or malformed. Tune the model again."
            ) from error
        for what, now in (("sampling", SAMPLING), ("scaling", SCALING)):
            if str(made_with.get(what)) not in map(str, range(1, now + 1)):
                raise FailedPrecondition(
                    f"{name}: the model was tuned on pictures by version {made_with.get(what)} of this program's "
                    f"{what}; this program knows versions 1 to {now}. Tune the model again, or use the program that "
                    "tuned it."
                )
        return found

    @property
    def scaling(self) -> int:
        """The version of the scaling rules in training, if it is not the current one; otherwise 0."""
        version = int(self.made_with.get("scaling", SCALING))
        return 0 if version == SCALING else version

    def completed(self, prompt: Prompt) -> Prompt:
        """The prompt, with the resolution of training if it has none."""
        if prompt.resolution is not None or self.resolution is None:
            return prompt
        return replace(prompt, resolution=self.resolution)

    def sampled(self, media: Media) -> Media:
        """The medium, with the frames per second of training if it is a video without its own."""
        if media.fps is not None or self.fps is None or not media.mime_type.startswith("video/"):
            return media
        return replace(media, fps=self.fps)

    def replayed(self, seen: InspectedMedium, media: Media) -> InspectedMedium:
        """The medium as in training: with the recorded frames if content, segment and fps are the same.

        Models trained with scaling version 1 saw videos with non-square pixels as if their pixels were square.
        """
        probe, size = seen.probe, seen.probe.stored_size
        if self.scaling == 1 and size is not None:
            probe = replace(probe, width=size[0], height=size[1])
        plan = self.plans.get((seen.file.sha256, requested_sampling(media)), seen.plan)
        return replace(seen, probe=probe, plan=plan)


def _object(sampling: FrameSampling, planned: MediumPlan) -> dict[str, Any]:
    found = encode_medium(planned)
    if planned.frames is None:
        return found
    return found | {"segment": {"fps": sampling.fps, "start": sampling.start_s, "end": sampling.end_s}}


def _sampling_key(held: Mapping[str, Any]) -> tuple[str, FrameSampling]:
    segment = held["segment"]
    return str(held["sha256"]), FrameSampling(float(segment["fps"]), float(segment["start"]), segment["end"])


def _most_common(counts: Counter[Any]) -> Any:  # noqa: ANN401  # what was counted, or None
    return counts.most_common(1)[0][0] if counts else None
