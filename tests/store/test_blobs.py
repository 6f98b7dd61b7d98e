"""Files of jobs: whole or not there."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.domain.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from kastor.runtime.storage_errors import is_disk_full
from kastor.store.blobs import job_files as blobs_module
from kastor.store.blobs.job_files import JobFiles


@pytest.fixture
def blobs(tmp_path: Path) -> JobFiles:
    return JobFiles(tmp_path)


def contents(blobs: JobFiles, job_id: str = "job1") -> list[str]:
    return sorted(path.name for path in blobs.job_dir(job_id).iterdir())


def lines_until(error: Exception) -> Iterator[bytes]:
    yield b"first"
    yield b"x" * 100_000
    raise error


def test_everything_of_a_job_lies_in_its_folder(blobs: JobFiles, tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "job1"
    assert blobs.job_dir("job1") == folder
    assert blobs.dataset("job1") == folder / "dataset.jsonl"
    assert blobs.checkpoints("job1") == folder / "checkpoints"
    assert blobs.adapter("job1") == folder / "adapter"
    assert blobs.log("job1") == folder / "log.jsonl"


@pytest.mark.parametrize("job_id", ["", "..", "../x", "a/b", "/etc", "a\x00", "a\n"])
def test_what_cannot_be_an_id_leads_nowhere(blobs: JobFiles, job_id: str) -> None:
    with pytest.raises(NotFound):
        blobs.job_dir(job_id)


def test_a_dataset_has_one_line_per_example(blobs: JobFiles) -> None:
    blobs.write_dataset("job1", [b'{"a":1}', b'{"b":2}\n'])
    assert blobs.dataset("job1").read_bytes() == b'{"a":1}\n{"b":2}\n'
    assert contents(blobs) == ["dataset.jsonl"]


def test_writing_again_replaces_the_whole(blobs: JobFiles) -> None:
    blobs.write_dataset("job1", [b"long" * 100])
    blobs.write_dataset("job1", [b"short"])
    assert blobs.dataset("job1").read_bytes() == b"short\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_said_to_be_one_naming_the_folder_and_leaves_no_half_file(blobs: JobFiles, number: int) -> None:
    with pytest.raises(ResourceExhausted, match=r"No space left in .*jobs/job1"):
        blobs.write_dataset("job1", lines_until(OSError(number, os.strerror(number))))
    assert contents(blobs) == []


def test_a_write_that_the_kernel_cuts_short_leaves_no_half_file(tmp_path: Path) -> None:
    # in a child, as the limit on the size of files cannot be lifted again
    script = """
import os, resource, signal, sys
from pathlib import Path
from kastor.store.blobs.job_files import JobFiles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
blobs = JobFiles(Path(sys.argv[1]))
try:
    blobs.write_dataset("job1", (b"x" * 1000 for _ in range(1000)))
except Exception as error:
    print(type(error).__name__, os.listdir(blobs.job_dir("job1")))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == "FailedPrecondition []\n"


def test_an_example_that_cannot_be_encoded_leaves_the_old_file(blobs: JobFiles) -> None:
    blobs.write_dataset("job1", [b"old"])
    with pytest.raises(InvalidArgument):
        blobs.write_dataset("job1", lines_until(InvalidArgument("no")))
    assert blobs.dataset("job1").read_bytes() == b"old\n"
    assert contents(blobs) == ["dataset.jsonl"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "jobs").touch()
    with pytest.raises(FailedPrecondition, match=r"Cannot write to .*jobs/job1: Not a directory"):
        JobFiles(tmp_path).write_dataset("job1", [b"x"])


def test_removing_a_job_leaves_only_the_others(blobs: JobFiles, tmp_path: Path) -> None:
    for job_id in ("job1", "job2"):
        blobs.write_dataset(job_id, [b"x"])
        (blobs.checkpoints(job_id) / "step-000001").mkdir(parents=True)
    blobs.remove_job("job1")
    blobs.remove_job("job1")
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["job2"]


def test_what_an_interrupted_removal_left_goes_with_the_next(blobs: JobFiles, tmp_path: Path) -> None:
    (tmp_path / "jobs" / ".removed-abc" / "job0").mkdir(parents=True)
    blobs.write_dataset("job1", [b"x"])
    blobs.remove_job("job1")
    assert list((tmp_path / "jobs").iterdir()) == []


def test_removing_where_nothing_was_ever_kept_does_nothing(blobs: JobFiles) -> None:
    blobs.remove_job("job1")


def chained(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (ResourceExhausted("No space left on device"), True),
        (chained(FailedPrecondition("cannot write"), OSError(errno.EDQUOT, "Disk quota exceeded")), True),
        (OSError(errno.EACCES, "Permission denied"), False),
        (InvalidArgument("line 3: the role 'No space left on device' is unknown"), False),
    ],
)
def test_a_full_disk_is_told_from_a_text_that_speaks_of_one(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full


def test_a_disk_that_is_full_when_a_job_is_resumed_is_said_to_be_full(
    blobs: JobFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs.write_dataset("failed", [b"1"])
    saved = blobs.checkpoints("failed") / "step-000004" / "manifest.json"
    saved.parent.mkdir(parents=True)
    saved.touch()
    link = blobs_module._link

    def full(source: str, target: str) -> None:
        if source == str(saved):  # in a folder, whose copying wraps errors in one of its own
            raise OSError(errno.ENOSPC, "No space left on device")
        link(source, target)

    monkeypatch.setattr(blobs_module, "_link", full)
    with pytest.raises(ResourceExhausted, match="^No space left in "):
        blobs.link_job("failed", "resumed")
    monkeypatch.undo()
    blobs.link_job("failed", "again")
    assert blobs.dataset("again").read_bytes() == b"1\n"


def test_a_file_that_two_jobs_share_by_a_link_is_changed_in_the_one_that_writes_it(blobs: JobFiles) -> None:
    blobs.write_dataset("failed", [b"1"])
    blobs.link_job("failed", "resumed")
    assert blobs.dataset("failed").samefile(blobs.dataset("resumed"))
    blobs.write_dataset("resumed", [b"2"])
    assert (blobs.dataset("failed").read_bytes(), blobs.dataset("resumed").read_bytes()) == (b"1\n", b"2\n")
