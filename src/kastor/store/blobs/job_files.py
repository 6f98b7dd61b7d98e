"""Files of jobs in one local folder. What is written here is there as a whole or not at all."""

import errno
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.certificate import CERTIFICATE_FILE
from kastor.domain.errors import DataLoss, FailedPrecondition, NotFound
from kastor.runtime.atomic import write_atomically
from kastor.runtime.storage_errors import is_disk_full, translate_storage_errors
from kastor.store.blobs.artifact_store import ArtifactStore
from kastor.store.blobs.checkpoint_folder import CheckpointFolder
from kastor.store.blobs.job_workspace import SOURCE, JobWorkspace
from kastor.store.blobs.manifests import UNREAD, verify

JOB_ID = re.compile(r"[A-Za-z0-9_-]+")
REMOVED = ".removed-"
UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


class JobFiles:
    """The folder that holds `jobs/{job_id}/…`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._jobs = root / "jobs"
        self._artifacts = ArtifactStore.local(root)

    def job_dir(self, job_id: str) -> Path:
        """Everything of a job; need not exist.

        Raises:
            NotFound: this cannot be a job's id.

        """
        if not JOB_ID.fullmatch(job_id):
            raise NotFound(f"Job {job_id!r} does not exist.")
        return self._jobs / job_id

    def workspace(self, job_id: str) -> JobWorkspace:
        """The job's folder on this machine; need not exist.

        Raises:
            NotFound: this cannot be a job's id.

        """
        return JobWorkspace(job_id, self.job_dir(job_id))

    def dataset(self, job_id: str) -> Path:
        """The examples, one line each."""
        return self.workspace(job_id).dataset

    def report(self, job_id: str) -> Path:
        """What the gate said of the dataset file."""
        return self.workspace(job_id).report

    def checkpoints(self, job_id: str) -> Path:
        """The folder of checkpoints."""
        return self.workspace(job_id).checkpoints

    def adapter(self, job_id: str) -> Path:
        """The published adapter; exists only once the job succeeded."""
        return self.workspace(job_id).adapter

    def verified_adapter(self, ref: AdapterRef) -> Path:
        """The folder of an adapter, after its files were checked against its manifest.

        Raises:
            NotFound: the job has no checkpoint of that step, or it was removed.
            DataLoss: a file is missing or damaged; names it.

        """
        if ref.step is None:
            folder = self.adapter(ref.job_id)
        else:
            folder = CheckpointFolder(self.checkpoints(ref.job_id)).at(ref.step).folder
            if not folder.is_dir():
                raise NotFound(f"Job {ref.job_id} has no checkpoint of step {ref.step}.")
        verify(folder, unread=UNREAD)
        return folder

    def certificate(self, job_id: str) -> Path:
        """The proof that the published adapter is served as it was trained; a file of the adapter's folder."""
        return self.adapter(job_id) / CERTIFICATE_FILE

    def log(self, job_id: str) -> Path:
        """The worker's log: JSON lines, and whatever else its process printed."""
        return self.workspace(job_id).log

    def open_log(self, job_id: str) -> BinaryIO:
        """Open the worker's log to read ranges of it.

        Raises:
            OSError: it cannot be read; `FileNotFoundError`: the job has not begun.

        """
        folder = self.job_dir(job_id)
        return self._artifacts.open(f"{folder.parent.name}/{folder.name}/{self.log(job_id).name}")

    def write_dataset(self, job_id: str, lines: Iterable[bytes]) -> str:
        """Write the examples, a newline after each; their sha256.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: the folder cannot be written to.

        """
        path = self.dataset(job_id)
        with translate_storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_atomically(path, (line.removesuffix(b"\n") + b"\n" for line in lines))

    def keep_source(self, job_id: str, path: Path, name: str) -> str:
        """Copy the dataset file to the job, whole or not at all; its sha256. `name` tells by its ending what it holds.

        Raises:
            NotFound: there is no such file.
            ResourceExhausted: the disk is full.
            FailedPrecondition: it cannot be read, or the folder cannot be written to.

        """
        target = self.job_dir(job_id) / SOURCE / (UNSAFE.sub("_", Path(name).name) or "dataset.jsonl")
        with translate_storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with path.open("rb") as file:
                    return write_atomically(target, iter(lambda: file.read(1 << 20), b""))
            except FileNotFoundError as error:
                raise NotFound(f"{name} does not exist.") from error

    def copy_adapter(self, source_job_id: str, job_id: str) -> None:
        """Make the published adapter of one job the initial one of another, which then needs the first no more.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: there is no published adapter, or the folder cannot be written to.
            DataLoss: a file of it is damaged; names it.

        """
        source, target = self.adapter(source_job_id), self.workspace(job_id).initial_adapter
        if source.is_dir():
            verify(source, unread=UNREAD)
        with translate_storage_errors(target):
            target.mkdir(parents=True, exist_ok=True)
            try:
                for file in source.iterdir():
                    shutil.copyfile(file, target / file.name)
            except FileNotFoundError as error:
                raise FailedPrecondition(f"{source} is not there any more; tune on a base model.") from error

    def link_job(self, source_job_id: str, job_id: str) -> None:
        """Give a job the dataset and checkpoints of another, by links to the same files, which are never written again.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: the other's files are gone, or the folder cannot be written to.

        """
        source, target = self.job_dir(source_job_id), self.job_dir(job_id)
        hidden = shutil.ignore_patterns(".*")
        with translate_storage_errors(target):
            target.mkdir(parents=True)  # not a copy of the folder, whose age `unstarted_job_ids` would go by
            try:
                for path in source.iterdir():
                    if path.name.startswith(".") or path in (self.log(source_job_id), self.adapter(source_job_id)):
                        continue
                    if path.is_dir():
                        shutil.copytree(path, target / path.name, ignore=hidden, copy_function=_link)
                    else:
                        _link(str(path), str(target / path.name))
            except shutil.Error as error:  # of several files at once; of each (source, target, why), the last as text
                why = OSError(error.args[0][0][2])
                raise OSError(errno.ENOSPC if is_disk_full(why) else errno.EIO, str(why)) from error

    def unstarted_job_ids(self, *, before: datetime) -> list[str]:
        """Ids of the jobs that no worker has begun, and whose folder has had nothing added to it since `before`."""
        folders = self._jobs.iterdir() if self._jobs.is_dir() else ()
        return [folder.name for folder in folders if JOB_ID.fullmatch(folder.name) and self._left(folder, before)]

    def _left(self, folder: Path, before: datetime) -> bool:
        try:
            added_at = datetime.fromtimestamp(folder.stat().st_mtime, UTC)
        except FileNotFoundError:  # removed meanwhile
            return False
        # checkpoints are no sign: a job that goes on for another gets them before its row
        begun = (self.log(folder.name), self.adapter(folder.name))
        return added_at < before and not any(path.exists() for path in begun)

    def remove_job(self, job_id: str) -> None:
        """Remove a job's files; nothing happens if there are none."""
        folder = self.job_dir(job_id)
        with translate_storage_errors(folder):
            with suppress(FileNotFoundError):
                # by a rename first, so that nobody meets half a job; what an interrupted removal left goes as well
                folder.rename(self._jobs / f"{REMOVED}{job_id}-{secrets.token_hex(4)}")
            for left in self._jobs.glob(f"{REMOVED}*"):
                shutil.rmtree(left, ignore_errors=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


@contextmanager
def reading_errors(name: str, job_id: str) -> Iterator[None]:
    """Failures to read the file `name` of a job as ours. That there is none passes: not every job has every file.

    Raises:
        DataLoss: the file cannot be read.

    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(name, job_id, error.strerror or str(error)) from error


def unreadable(name: str, job_id: str, why: str) -> DataLoss:
    """What is to be said of the file `name` of a job that cannot be read."""
    return DataLoss(f"The {name} of job {job_id} cannot be read: {why}. Restore it from a backup.")
