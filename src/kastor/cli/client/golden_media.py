"""The media that an export is compared on, fetched for the exporting process, which has neither sources nor rights."""

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
    """By the hash of their content: where media lie, and why the others cannot be had."""

    media: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)


def job_files(settings: Settings, job: TuningJob) -> GoldenJobFiles:
    """Where the job keeps its examples."""
    blobs = JobFiles(settings.data_dir)
    return GoldenJobFiles(blobs.dataset(job.id), blobs.plan(job.id))


@contextmanager
def golden_media(settings: Settings, job: TuningJob) -> Iterator[LocatedMedia]:
    """What the examples show that the model was certified on; it stays on this machine until the block ends.

    Raises:
        ResourceExhausted: the disk or the cache is full.

    """
    found = LocatedMedia()
    golden = job_files(settings, job).golden(JobFiles(settings.data_dir).adapter(job.id))
    shown = [pair for one in golden if one.planned for pair in one.planned.by_media(one.example).items()]
    if job.spec.file is None or not shown:
        yield found
        return
    cache = media_cache(settings)
    uploaded = None
    with suppress(NotFound):  # the model was deleted, and with it whose uploads these are
        uploaded = upload_resolver(settings, job)
    with closing(cache.lease("export")) as lease:
        allowed, guard = allowed_media_sources(settings, job.spec.file), url_guard(settings)
        fetcher = Fetcher(cache, lease, allowed, guard=guard, uploads=uploaded)
        for media, planned in shown:
            try:
                got = fetcher.fetch_bytes(media.data) if media.data else fetcher.fetch(media.uri)
            except MediumError as bad:
                found.lost[planned.sha256] = bad.fault.message
                continue
            if got.sha256 == planned.sha256:
                found.media[planned.sha256] = str(got.path)
            else:
                found.lost[planned.sha256] = f"{media.name} is another file now than when it was trained on."
        yield found
