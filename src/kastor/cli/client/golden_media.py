"""Fetches the media of the golden examples for the export process, which cannot read the sources itself."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

from kastor.domain.errors import NotFound
from kastor.domain.job import TuningJob
from kastor.domain.media import MediumError
from kastor.export.golden import GoldenJobFiles
from kastor.media.fetch import Fetcher
from kastor.settings import Settings
from kastor.store.blobs.job_files import JobFiles
from kastor.worker.media_config import allowed_media_sources, media_cache, upload_resolver, url_guard


@dataclass(frozen=True, slots=True)
class LocatedMedia:
    """Paths of media by content hash, and for the others why they are unavailable."""

    media: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def job_files(settings: Settings, job: TuningJob) -> GoldenJobFiles:
    """The files of the job's examples."""
    blobs = JobFiles(settings.data_dir)
    return GoldenJobFiles(blobs.dataset(job.id), blobs.workspace(job.id).plan)


@contextmanager
def golden_media(settings: Settings, job: TuningJob) -> Iterator[LocatedMedia]:
    """The media of the examples that the model was certified on, kept on this machine until the block ends.

    Raises:
        ResourceExhausted: the disk or the cache is full.

    """
    found = LocatedMedia()
    golden = job_files(settings, job).golden(JobFiles(settings.data_dir).adapter(job.id))
    pairs = [pair for one in golden if one.planned for pair in one.planned.by_media(one.example).items()]
    if job.spec.file is None or not pairs:
        yield found
        return
    cache = media_cache(settings)
    uploaded = None
    with suppress(NotFound):  # the model was deleted, and with it the owner of the uploads
        uploaded = upload_resolver(settings, job)
    with closing(cache.lease("export")) as lease:
        allowed, guard = allowed_media_sources(settings, job.spec.file), url_guard(settings)
        fetcher = Fetcher(cache, lease, allowed, guard=guard, uploads=uploaded)
        for media, planned in pairs:
            try:
                file = fetcher.fetch_bytes(media.data) if media.data else fetcher.fetch(media.uri)
            except MediumError as error:
                found.lost[planned.sha256] = error.fault.message
                continue
            if file.sha256 == planned.sha256:
                found.media[planned.sha256] = str(file.path)
            else:
                found.lost[planned.sha256] = f"{media.name} has changed since the model was trained on it."
        yield found
