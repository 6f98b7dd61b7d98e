"""What the operator's settings allow a job's dataset file: its limits, where its media come from, and their caches."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from kastor.domain.dataset_limits import dataset_limits
from kastor.domain.job import DatasetFile, TuningJob
from kastor.domain.permission import Principal
from kastor.domain.request_limits import PROFILES
from kastor.media.cache import MediaCache
from kastor.media.fetch import AllowedSources
from kastor.security.url_guard import UrlGuard
from kastor.settings import Settings
from kastor.store.blobs.upload_blobs import UploadBlobs
from kastor.store.database import open_database
from kastor.store.files import FileStore
from kastor.worker.pipeline.inputs import DatasetConfig, MediaAccess

if TYPE_CHECKING:
    from kastor.services.files import FileService


def dataset_config(settings: Settings, job: TuningJob, on_damage: Callable[[str], None]) -> DatasetConfig | None:
    """What the job's pipeline needs to know of the settings; `None` where the job has no dataset file."""
    file = job.spec.file
    if file is None:
        return None
    access = MediaAccess(
        allowed_media_sources(settings, file),
        url_guard(settings),
        upload_resolver(settings, job),
        partial(media_cache, settings, on_damage),
        partial(frame_cache, settings, on_damage),
        partial(feature_cache, settings, on_damage),
    )
    limits = dataset_limits(file.profile, settings.dataset_limits)
    return DatasetConfig(file.name, limits, PROFILES[settings.profile], access)


def media_cache(settings: Settings, on_damage: Callable[[str], None] = lambda _: None) -> MediaCache:
    """The cache of fetched media, shared by jobs and generation."""
    return MediaCache(settings.cache_dir / "media", max_bytes=settings.media_cache_bytes, on_damage=on_damage)


def frame_cache(settings: Settings, on_damage: Callable[[str], None] = lambda _: None) -> MediaCache:
    """The cache of decoded pictures, shared by jobs and generation."""
    return MediaCache(settings.cache_dir / "frames", max_bytes=settings.frame_cache_bytes, on_damage=on_damage)


def feature_cache(settings: Settings, on_damage: Callable[[str], None] = lambda _: None) -> MediaCache:
    """The cache of features, shared by jobs and generation."""
    return MediaCache(settings.cache_dir / "features", max_bytes=settings.feature_cache_bytes, on_damage=on_damage)


def allowed_media_sources(settings: Settings, file: DatasetFile) -> AllowedSources:
    """The folders and buckets that the dataset may name."""
    base = Path(file.media_base) if file.media_base else None
    return AllowedSources(tuple(settings.media_folders), tuple(settings.media_buckets), base)


def url_guard(settings: Settings) -> UrlGuard:
    """Which addresses may be fetched from."""
    return UrlGuard(allowed=tuple(settings.media_addresses))


def upload_resolver(settings: Settings, job: TuningJob) -> Callable[[str], Path]:
    """Where the content of `files/…` lies, for the files that the job's creator may see.

    Not the owner of its model, who may be another by now: the creator wrote the dataset.
    """

    @cache
    def opened() -> "FileService":
        # not at the top: most jobs name no uploads, and this brings the whole service along
        from kastor.services.files import FileService

        database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
        return FileService(
            files=FileStore(database),
            blobs=UploadBlobs(settings.data_dir),
            clock=lambda: datetime.now(UTC),
            max_file_bytes=settings.max_file_bytes,
            ttl=timedelta(hours=settings.file_ttl_hours),
        )

    def path_of(name: str) -> Path:
        return opened().path_of(name, Principal(job.creator))

    return path_of
