"""The result of inspecting a medium."""

from dataclasses import dataclass

from kastor.domain.media import MediaFault, Probe, SamplingPlan
from kastor.domain.vision import MediumLayout, MediumPlan
from kastor.media.cache import CachedFile


@dataclass(frozen=True, slots=True)
class InspectedMedium:
    """A usable medium: its file, its properties and, for a video, the frames to sample."""

    file: CachedFile
    probe: Probe
    plan: SamplingPlan | None = None

    def medium_plan(self, view: MediumLayout) -> MediumPlan:
        """The plan that training and engines follow when a model sees the medium in this layout."""
        return MediumPlan(self.file.sha256, self.probe.kind, view, self.plan)


InspectionResult = InspectedMedium | MediaFault
