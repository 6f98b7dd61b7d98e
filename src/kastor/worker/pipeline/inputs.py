"""What a job's pipeline is given: the job's local files, and what the operator allows a dataset file and its media."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from kastor.domain.dataset_limits import DatasetLimits
from kastor.domain.request_limits import Limits
from kastor.media.cache import MediaCache
from kastor.media.fetch import AllowedSources
from kastor.security.url_guard import UrlGuard


class Workspace(Protocol):
    """The files of one job on this machine."""

    @property
    def dataset(self) -> Path:
        """The examples, one line each."""

    @property
    def source(self) -> Path:
        """The dataset file as it was handed in; raises `NotFound` where the examples came with the request."""

    @property
    def plan(self) -> Path:
        """What each example of the dataset will be for the model, one line each."""

    @property
    def sampling(self) -> Path:
        """How the examples' media are shown; exists where there are any."""

    @property
    def report(self) -> Path:
        """What validation said of the dataset file."""

    @property
    def unreadable_rows(self) -> Path:
        """Media that turned out bad after validation; exists once there is one."""

    @property
    def features(self) -> Path:
        """Whether the job keeps features, and by which numbers; exists once that was measured."""

    @property
    def initial_adapter(self) -> Path:
        """The adapter that the job starts from; exists only where it was made on top of a tuned model."""

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write one of the files, whole or not at all."""

    def sha256(self, path: Path) -> str:
        """The checksum of one of the files, in hexadecimal."""

    def check_unchanged(self, checksums: Mapping[str, str]) -> None:
        """Raise `DataLoss` if a file is missing or not what it was when the job was created."""


@dataclass(frozen=True, slots=True)
class MediaAccess:
    """Where one job's media may come from, and the caches that keep what is made of them."""

    sources: AllowedSources
    guard: UrlGuard
    uploads: Callable[[str], Path]  # where the content of `files/…` lies
    open_media_cache: Callable[[], MediaCache]
    open_frame_cache: Callable[[], MediaCache]
    open_feature_cache: Callable[[], MediaCache]


@dataclass(frozen=True, slots=True)
class DatasetConfig:
    """What the operator allows one job's dataset file."""

    file_name: str  # as the user named it
    limits: DatasetLimits
    request_limits: Limits
    media: MediaAccess
