"""A server on a full disk: it starts, says so, and deletes, after which there is room."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from kastor.runtime.server_record import publish_server_record
from kastor.store.blobs.disk_reserve import NUM_BYTES, PLENTY, DiskReserve
from support.polling import wait_until
from support.server_process import environment, serving
from support.small_disk import fill, needs_mount, small_disk

PAIRS = {"tuningTask": {"trainingData": {"examples": {"examples": [{"textInput": "1", "output": "2"}]}}}}
BODY = {"displayName": "n", "baseModel": "models/smollm2-135m-instruct"} | PAIRS
SIZE_MIB = 2 + PLENTY * NUM_BYTES // 1024**2


@needs_mount
def test_on_a_full_disk_the_server_starts_and_deletes_and_then_takes_new_jobs(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE_MIB) as disk:
        with serving(disk, jobs=False) as (_, url):
            made = httpx.post(f"{url}/v1beta/tunedModels?tunedModelId=old", json=BODY)
            assert made.status_code == 200, made.text
            assert httpx.post(f"{url}/v1beta/tunedModels/old:cancel", json={}).status_code == 200
        DiskReserve(disk).keep()  # as the loop of a server that runs jobs does
        big = disk / "jobs" / made.json()["name"].rsplit("/", 1)[1] / "big"
        fill(big)
        with serving(disk, jobs=False) as (_, url):
            fill(disk / "rest")
            refused = httpx.post(f"{url}/v1beta/tunedModels?tunedModelId=new", json=BODY)
            assert refused.status_code in (429, 507), refused.text
            assert "No space left" in refused.json()["error"]["message"]
            assert httpx.get(f"{url}/v1beta/tunedModels/old").status_code == 200
            deleted = httpx.delete(f"{url}/v1beta/tunedModels/old")
            assert deleted.status_code == 200, deleted.text
            wait_until(lambda: not big.exists())
            made = httpx.post(f"{url}/v1beta/tunedModels?tunedModelId=new", json=BODY)
            assert made.status_code == 200, made.text


@needs_mount
def test_the_reserve_goes_when_the_disk_is_full_only_and_comes_back_when_there_is_plenty(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", SIZE_MIB + NUM_BYTES // 1024**2) as disk:
        reserve = DiskReserve(disk)
        assert reserve.release() is False
        reserve.keep()
        assert reserve.release() is False
        fill(disk / "filler")
        assert reserve.release() is True
        assert os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize >= NUM_BYTES
        reserve.keep()  # there is some room, and not plenty
        fill(disk / "filler2")
        assert reserve.release() is False
        (disk / "filler").unlink()
        reserve.keep()
        assert (disk / ".reserve").stat().st_size == NUM_BYTES


def test_the_reserve_needs_nothing_that_only_linux_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    DiskReserve(tmp_path).keep()
    assert (tmp_path / ".reserve").stat().st_size == NUM_BYTES
    assert (tmp_path / ".reserve").stat().st_mode & 0o777 == 0o600
    DiskReserve(tmp_path / "missing").keep()  # nothing can be kept there, and nothing is raised


def test_a_server_that_cannot_announce_itself_for_want_of_room_serves_all_the_same(tmp_path: Path) -> None:
    code = (
        "import resource, sys, pathlib\n"
        "from kastor.runtime import server_record\n"
        "def full(*_): raise OSError(28, 'No space left on device')\n"
        "server_record.Path.write_text = full\n"
        "with server_record.publish_server_record(pathlib.Path(sys.argv[1]), 'http://127.0.0.1:1', 'x'):\n"
        "    print('serves')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=environment(), check=True
    )
    assert "serves" in done.stdout
    assert "--server http://127.0.0.1:1" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
    with publish_server_record(tmp_path, "http://127.0.0.1:2", "y"):
        assert json.loads((tmp_path / "server.json").read_bytes())["instance"] == "y"
