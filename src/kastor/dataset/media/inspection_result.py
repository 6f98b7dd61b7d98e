"""What is known of a medium once it was looked at."""

from dataclasses import dataclass

from kastor.domain.media import MediaFault, Probe, SamplingPlan
from kastor.media.cache import CachedFile


@dataclass(frozen=True, slots=True)
class InspectedMedium:
    """A medium that can be used: where it lies, what it is and, of a video, which frames are taken."""

    file: CachedFile
    probe: Probe
    plan: SamplingPlan | None = None


InspectionResult = InspectedMedium | MediaFault
