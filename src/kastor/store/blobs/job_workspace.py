"""The local folder of one job: paths are allowed here, as its worker and the libraries it uses read and write files."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from kastor.domain.errors import DataLoss, NotFound
from kastor.runtime.atomic import write_atomically
from kastor.runtime.storage_errors import translate_storage_errors
from kastor.store.blobs.manifests import sha256_of

DATASET, PLAN, SAMPLING, SOURCE = "dataset.jsonl", "plan.jsonl", "sampling.json", "source"


class JobWorkspace:
    """The folder of one job on this machine; need not exist."""

    def __init__(self, job_id: str, folder: Path) -> None:
        self.job_id = job_id
        self.folder = folder

    @property
    def dataset(self) -> Path:
        """The examples, one line each."""
        return self.folder / DATASET

    @property
    def source(self) -> Path:
        """The dataset file as it was handed in; exists only where the examples did not come with the request.

        Raises:
            NotFound: there is none.

        """
        folder = self.folder / SOURCE
        found = next(iter(folder.iterdir()), None) if folder.is_dir() else None
        if found is None:
            raise NotFound(f"Job {self.job_id} has no dataset file.")
        return found

    @property
    def plan(self) -> Path:
        """What each example of the dataset will be for the model, one line each."""
        return self.folder / PLAN

    @property
    def sampling(self) -> Path:
        """How the examples' media are shown; exists where there are any."""
        return self.folder / SAMPLING

    @property
    def report(self) -> Path:
        """What validation said of the dataset file."""
        return self.folder / "report.json"

    @property
    def unreadable_rows(self) -> Path:
        """Media that turned out bad after validation had accepted them; exists once there is one."""
        return self.folder / "left_out.json"

    @property
    def features(self) -> Path:
        """Whether the job keeps features, and by which numbers; exists once that was measured."""
        return self.folder / "features.json"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The published adapter; exists only once the job succeeded."""
        return self.folder / "adapter"

    @property
    def initial_adapter(self) -> Path:
        """The adapter that the job starts from; exists only where it was made on top of a tuned model."""
        return self.folder / "initial"

    @property
    def log(self) -> Path:
        """The worker's log: JSON lines, and whatever else its process printed."""
        return self.folder / "log.jsonl"

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write one of the job's files, whole or not at all.

        Raises:
            ResourceExhausted: the disk is full.
            FailedPrecondition: the folder cannot be written to.

        """
        with translate_storage_errors(path.parent):
            write_atomically(path, chunks)

    def sha256(self, path: Path) -> str:
        """The checksum of one of the files, in hexadecimal."""
        return sha256_of(path)

    def check_unchanged(self, checksums: Mapping[str, str]) -> None:
        """Make sure that the job is trained on what it was created with.

        Raises:
            DataLoss: a file is missing or not what it was; names it.

        """
        for name, sha256 in checksums.items():
            try:
                changed = sha256_of(self.source if name == SOURCE else self.folder / name) != sha256
            except (OSError, NotFound):
                changed = True
            if changed:
                raise DataLoss(
                    f"The {name} of job {self.job_id} is missing, damaged or was changed since it was made, so nothing "
                    "was trained on it. Restore it and resume the job, if it kept a checkpoint; else tune again."
                )
