"""Bytes of uploaded files: they grow at their end only, by one request at a time, and lie there once."""

import errno
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kastor.domain.errors import FailedPrecondition, NotFound, ResourceExhausted, Superseded
from kastor.store.blobs.upload_blobs import MAX_HASHES, UploadBlobs

LATER = datetime.now(UTC) + timedelta(days=1)

ONE, TWO = "1" * 64, "2" * 64


@pytest.fixture
def blobs(tmp_path: Path) -> UploadBlobs:
    return UploadBlobs(tmp_path)


def grown(blobs: UploadBlobs, content: bytes, upload_id: str = ONE) -> None:
    blobs.begin(upload_id)
    growing = blobs.grow(upload_id, 0)
    growing.write(content)
    growing.close()


def kept(blobs: UploadBlobs, upload_id: str = ONE) -> Path:
    with blobs.sealed(upload_id) as sealed, blobs.changing(), sealed.kept():
        pass
    return blobs.content(sealed.sha256)


def test_what_is_kept_lies_under_its_hash_and_is_no_upload_any_more(blobs: UploadBlobs) -> None:
    grown(blobs, b"hello")
    path = kept(blobs)
    assert path.name == hashlib.sha256(b"hello").hexdigest()
    assert path.read_bytes() == b"hello"
    assert blobs.received(ONE) is None
    assert list(blobs.contents(before=LATER)) == [path.name]


def test_the_hash_is_the_same_whether_it_ran_along_or_not(blobs: UploadBlobs, tmp_path: Path) -> None:
    grown(blobs, b"hello")
    growing = blobs.grow(ONE, 5)
    growing.write(b" again")
    growing.close()
    with UploadBlobs(tmp_path).sealed(ONE) as of_another_process:
        pass
    with blobs.sealed(ONE) as sealed:
        assert sealed.sha256 == of_another_process.sha256 == hashlib.sha256(b"hello again").hexdigest()


def test_an_upload_that_was_never_begun_cannot_be_sealed(blobs: UploadBlobs) -> None:
    with pytest.raises(NotFound), blobs.sealed(TWO):
        pass


def test_a_hash_that_missed_a_piece_is_not_used(blobs: UploadBlobs, tmp_path: Path) -> None:
    grown(blobs, b"one")
    other = UploadBlobs(tmp_path).grow(ONE, 3)
    other.write(b"two")
    other.close()
    growing = blobs.grow(ONE, 6)
    growing.write(b"three")
    growing.close()
    with blobs.sealed(ONE) as sealed:
        assert sealed.sha256 == hashlib.sha256(b"onetwothree").hexdigest()


def test_hashes_of_many_uploads_are_forgotten_and_found_again(blobs: UploadBlobs) -> None:
    ids = [f"{i:064x}" for i in range(MAX_HASHES + 5)]
    for upload_id in ids:
        grown(blobs, upload_id.encode(), upload_id)
    for upload_id in ids:
        with blobs.sealed(upload_id) as sealed:
            assert sealed.sha256 == hashlib.sha256(upload_id.encode()).hexdigest()


def test_who_finds_more_than_they_left_has_lost(blobs: UploadBlobs) -> None:
    blobs.begin(ONE)
    first, second = blobs.grow(ONE, 0), blobs.grow(ONE, 0)
    first.write(b"first")
    with pytest.raises(Superseded, match="holds 5 bytes, and these would begin at 0"):
        second.write(b"second")
    first.write(b" goes on")
    with blobs.sealed(ONE) as sealed:
        assert sealed.size_bytes == 13
    for growing in (first, second):
        growing.close()


def test_a_request_left_over_cannot_touch_what_has_become_content(blobs: UploadBlobs) -> None:
    blobs.begin(ONE)
    late = blobs.grow(ONE, 0)
    late.write(b"hello")
    path = kept(blobs)
    with pytest.raises(NotFound):
        late.write(b" world")
    late.close()
    assert path.read_bytes() == b"hello"


def test_a_request_left_over_cannot_revive_what_was_dropped(blobs: UploadBlobs) -> None:
    blobs.begin(ONE)
    late = blobs.grow(ONE, 0)
    blobs.drop(ONE)
    blobs.drop(ONE)
    with pytest.raises(NotFound):
        late.write(b"hello")
    late.close()
    with pytest.raises(NotFound):
        blobs.grow(ONE, 0)
    assert list(blobs.partials(before=LATER)) == []


def test_many_writers_at_one_upload_lose_no_byte(blobs: UploadBlobs) -> None:
    blobs.begin(ONE)

    def write(piece: bytes) -> None:
        for _ in range(20):
            while True:
                growing = blobs.grow(ONE, blobs.received(ONE) or 0)
                try:
                    growing.write(piece)
                    break
                except Superseded:
                    continue
                finally:
                    growing.close()

    threads = [threading.Thread(target=write, args=(bytes([65 + i]) * 1000,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = kept(blobs).read_bytes()
    pieces = [content[i : i + 1000] for i in range(0, len(content), 1000)]
    assert sorted(pieces) == sorted(bytes([65 + i]) * 1000 for i in range(4) for _ in range(20))
    assert list(blobs.contents(before=LATER)) == [hashlib.sha256(content).hexdigest()]


def test_the_same_content_is_there_once(blobs: UploadBlobs) -> None:
    grown(blobs, b"same", ONE)
    grown(blobs, b"same", TWO)
    assert kept(blobs, ONE) == kept(blobs, TWO)
    assert list(blobs.partials(before=LATER)) == []
    blobs.remove(hashlib.sha256(b"same").hexdigest())
    assert list(blobs.contents(before=LATER)) == []


@pytest.mark.parametrize("there", [False, True])
def test_when_the_row_cannot_be_written_the_upload_is_there_as_before(blobs: UploadBlobs, there: bool) -> None:
    if there:
        grown(blobs, b"hello", TWO)
        kept(blobs, TWO)
    grown(blobs, b"hello")
    with pytest.raises(ZeroDivisionError), blobs.sealed(ONE) as sealed, blobs.changing(), sealed.kept():
        raise ZeroDivisionError
    assert blobs.received(ONE) == 5
    assert len(list(blobs.contents(before=LATER))) == there
    assert kept(blobs).read_bytes() == b"hello"


def test_a_full_disk_leaves_the_upload_as_it_was_before_the_request(
    blobs: UploadBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    grown(blobs, b"before")
    growing = blobs.grow(ONE, 6)
    growing.write(b"this request")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", failing(errno.ENOSPC))
        with pytest.raises(ResourceExhausted, match="No space left"):
            growing.write(b"x")
    growing.close()
    assert blobs.received(ONE) == 6


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_folder_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("in the way")
    with pytest.raises(FailedPrecondition, match="Cannot write to"):
        UploadBlobs(tmp_path).begin(ONE)


@pytest.mark.parametrize("name", ["", "..", "../" + ONE, ONE[:-1], ONE.replace("1", "A"), ONE + "\n"])
def test_what_is_no_hash_leads_nowhere(blobs: UploadBlobs, name: str) -> None:
    for call in (blobs.content, blobs.received, blobs.begin, blobs.drop):
        with pytest.raises(NotFound):
            call(name)


def test_changing_excludes_other_processes(blobs: UploadBlobs, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from kastor.store.blobs.upload_blobs import UploadBlobs\n"
        "with UploadBlobs(Path(sys.argv[1])).changing(): print('in', flush=True)"
    )
    with blobs.changing():
        other = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=2)
    assert other.communicate(timeout=20)[0] == b"in\n"
