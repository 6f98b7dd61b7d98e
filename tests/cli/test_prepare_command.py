"""`kastor prepare` says its plan, does it, and its outcome passes `kastor check`'s gate."""

import json
from pathlib import Path

import pytest

from support.command_result import Kastor
from support.films import Recipe, make_film


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A film of 6 s and two rows."""
    make_film(tmp_path / "film.mp4", Recipe(num_frames=60))
    medium = {"fileData": {"mimeType": "video/mp4", "fileUri": "film.mp4"}}
    rows = [
        {
            "contents": [
                {"role": "user", "parts": [medium, {"text": ask}]},
                {"role": "model", "parts": [{"text": answer}]},
            ]
        }
        for ask, answer in (("List.", "[0:01] a\n[0:05] b"), ("About?", "Frames."))
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "data.jsonl"


def test_a_dry_run_only_says_what_would_be_done(kastor: Kastor, data: Path) -> None:
    ran = kastor("prepare", str(data), "--out", str(data.parent / "out"), "--max-seconds", "4", "--dry-run", "--json")
    assert ran.code == 0, ran.err
    assert [(one["action"], one["rows"]) for one in ran.json["plan"]["media"]] == [("window", 2)]
    assert not (data.parent / "out").exists()


def test_rows_are_prepared_and_each_one_is_accounted_for(kastor: Kastor, data: Path) -> None:
    out = data.parent / "out"
    ran = kastor("prepare", str(data), "--out", str(out), "--max-seconds", "4", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["rowsIn"], ran.json["rowsChanged"], ran.json["rowsLeftOut"]) == (2, 1, 1)
    assert (ran.json["rowsOut"], ran.json["refused"]) == (2, 0)
    assert "2 rows: 0 pass as they are, 2 need changes" in ran.err
    assert len((out / "dataset.jsonl").read_text().splitlines()) == 2
    assert "line-1" in (out / "changes.html").read_text()
    again = kastor("prepare", str(data), "--out", str(out), "--max-seconds", "4", "--untimed", "copy")
    assert again.code == 0
    assert "rows out" in again.out
    assert len((out / "dataset.jsonl").read_text().splitlines()) == 4


def test_limits_that_were_raised_hold_here_too(kastor: Kastor, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ("prepare", str(data), "--out", str(data.parent / "out"), "--dry-run", "--json")
    assert kastor(*plan).json["plan"]["media"] == []
    assert kastor(*plan, "--raise", "max_video_bytes=100").json["plan"]["media"] != []
    monkeypatch.setenv("KASTOR_DATASET_LIMITS", '{"max_video_bytes": 100}')
    assert kastor(*plan).json["plan"]["media"] != []
    assert kastor(*plan, "--raise", "max_video_bytes=none").json["plan"]["media"] == []


WRONG = {
    ("--raise", "max_films=3"): "max_films",
    ("--raise", "max_images=many"): "write NAME=NUMBER",
    ("--strategy", "burn"): "--strategy burn is unknown; use auto, drop, shrink, cut",
    ("--times-from", "moon"): "use file, segment",
    ("--patterns", "absent.toml"): "Cannot read the patterns absent.toml",
    ("--profile", "none"): "There is no profile",
}


@pytest.mark.parametrize("options", WRONG)
def test_a_wrong_option_is_named_with_what_would_work(options: tuple[str, str], kastor: Kastor, data: Path) -> None:
    ran = kastor("prepare", str(data), "--out", str(data.parent / "out"), *options)
    assert ran.code != 0
    assert WRONG[options] in ran.err


def test_the_originals_folder_is_no_place_for_the_outcome(kastor: Kastor, data: Path) -> None:
    ran = kastor("prepare", str(data), "--out", str(data.parent))
    assert ran.code != 0
    assert "name another" in ran.err
