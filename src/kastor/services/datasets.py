"""The use cases of tuning on a dataset file: rows that the dialects' messages cannot carry, and media."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kastor.domain.dataset_limits import DEFAULT_PROFILE
from kastor.domain.errors import InvalidArgument, NotFound
from kastor.domain.file import FILES
from kastor.domain.permission import Principal, Role
from kastor.services.files import FileService
from kastor.services.tuning import TuningService
from kastor.services.tuning_request import NewDataset, NewTuning
from kastor.services.views import TunedModelView
from kastor.store.blobs.job_files import JobFiles, reading_errors


class DatasetService:
    """Every use case of dataset files; safe to use from several threads at once.

    `folders` are those of the server's disk whose files callers may name.
    """

    def __init__(self, *, tuning: TuningService, files: FileService, blobs: JobFiles, folders: Sequence[Path]) -> None:
        self._tuning = tuning
        self._files = files
        self._blobs = blobs
        self._folders = tuple(Path(os.path.realpath(folder)) for folder in folders)

    def create(
        self,
        new: NewTuning,
        dataset: str,
        caller: Principal,
        *,
        profile: str | None = None,
        media_folder: str | None = None,
    ) -> TunedModelView:
        """A tuned model whose job is queued; its rows are judged when the job begins.

        `dataset` is `files/…` or a path on the server; `media_folder`, where the relative names of its media begin, is
        the dataset's own folder if it is a path.

        Raises:
            InvalidArgument: something asked for is wrong; names the fields.
            PermissionDenied: the file is somebody else's, or there is none.
            What `TuningService.create` raises.

        """
        base = None if media_folder is None else self._allowed(media_folder, "media_folder")
        if dataset.startswith(FILES):
            file = self._files.get(dataset, caller)
            path, name = self._files.path_of(dataset, caller), file.display_name or dataset
        else:
            path, name = self._allowed(dataset, "dataset"), dataset
            base = base or path.parent
        if not path.is_file():
            raise InvalidArgument.of("dataset", f"{dataset!r} is not a file")
        wanted = NewDataset(path, name, profile or DEFAULT_PROFILE, base)
        return self._tuning.create(replace(new, file=wanted), caller)

    def report(self, job_id: str, caller: Principal) -> bytes:
        """What the gate said of the job's dataset file, as JSON.

        Raises:
            NotFound: there is no such job, or nothing was judged yet.
            PermissionDenied: the caller is no writer of its model.
            DataLoss: it cannot be read.

        """
        self._tuning.authorized_job(job_id, caller, Role.WRITER)
        try:
            with reading_errors("report", job_id):
                return self._blobs.report(job_id).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"Job {job_id} has no report: its dataset file was not judged, or it has none.") from error

    def _allowed(self, text: str, field: str) -> Path:
        """The path, if it lies under one of the folders; links are followed first."""
        path = Path(text)
        if not path.is_absolute():
            raise InvalidArgument.of(field, f"{text!r} is neither an uploaded file (files/…) nor an absolute path")
        try:
            real = path.resolve()
        except (ValueError, OSError, RuntimeError):  # U+0000 in it, a name that is too long, links in a circle
            raise InvalidArgument.of(field, f"{text[:80]!r} is not a path") from None
        if not any(real.is_relative_to(folder) for folder in self._folders):
            said = f"{text!r} lies under none of the folders that this server may read; upload it, or ask the operator"
            raise InvalidArgument.of(field, f"{said} to add its folder to media_folders")
        return real
