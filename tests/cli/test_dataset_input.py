"""A dataset may come from standard input or a pipe, and only so much of it."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kastor.cli.console.dataset_input import dataset_file
from kastor.dataset.formats.read import read_examples
from kastor.domain.content import Example
from kastor.domain.errors import InvalidArgument

ROW = b'{"text_input": "1", "output": "2"}\n'


def standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_standard_input_is_a_file_for_as_long_as_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input(monkeypatch, ROW * 2)
    with dataset_file(Path("-")) as file:
        assert read_examples(file) == read_examples(file) == [Example.pair("1", "2")] * 2
    assert not file.exists()


def test_a_pipe_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(ROW,))
    writer.start()
    with dataset_file(tmp_path / "pipe") as file:
        assert read_examples(file) == [Example.pair("1", "2")]
    writer.join()


@pytest.mark.parametrize(
    ("data", "said"),
    [(b"x" * 3_000_000, "is larger than 2,000,000 bytes"), (bytes(5_000_000), "stdin is a binary file")],
)
def test_input_that_never_ends_is_refused_by_name(monkeypatch: pytest.MonkeyPatch, data: bytes, said: str) -> None:
    standard_input(monkeypatch, data)
    with pytest.raises(InvalidArgument, match=said), dataset_file(Path("-"), max_bytes=2_000_000):
        pass


def test_a_file_is_itself(tmp_path: Path) -> None:
    with dataset_file(tmp_path / "d.jsonl") as file:
        assert file == tmp_path / "d.jsonl"


COPYING = """
import time
from pathlib import Path
from kastor.cli.console.dataset_input import dataset_file
with dataset_file(Path("-")) as copy:
    print(copy, flush=True)
    time.sleep(60)
"""


def test_the_copy_of_a_killed_command_goes_with_the_next_copy_and_no_folder_of_the_users_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    of_the_user = tmp_path / "kastor-dataset-mine"
    of_the_user.mkdir()
    (of_the_user / "rows.jsonl").write_bytes(ROW)
    os.utime(of_the_user, (0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", COPYING],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(ROW)
        process.stdin.close()
        left = Path(process.stdout.readline().decode().strip())
        standard_input(monkeypatch, ROW)
        with dataset_file(Path("-")):
            assert left.is_file()
        process.kill()
    standard_input(monkeypatch, ROW)
    with dataset_file(Path("-")):
        assert not left.parent.exists()
    assert list(tmp_path.iterdir()) == [of_the_user] and list(of_the_user.iterdir())
