"""The demos on images and video, whole, on a tiny base that sees: a server, jobs, answers, a page."""

import json
import re
import zipfile
from pathlib import Path

import pytest

from kastor.cli.demos import textile_data
from kastor.models.chat.families import NANO_VL
from support.command_result import Kastor
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_seeing_base

TEXTILE = Path(__file__).parent.parent / "data" / "textile"


@pytest.fixture(name="seeing", scope="module")
def a_seeing_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog in which the base that sees is tiny."""
    folder = tmp_path_factory.mktemp("base")
    base = tiny_seeing_base(folder / "base")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 2048}))  # for six frames
    limits = {"input_token_limit": 1200, "output_token_limit": 112}
    return tiny_catalog(folder / "catalog.toml", {"kastor-nano-vl": base}, family=NANO_VL.name, **limits)


@pytest.fixture(autouse=True)
def _settings(seeing: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(seeing))
    monkeypatch.setenv("KASTOR_NUM_THREADS", "1")
    monkeypatch.chdir(home)


@pytest.fixture(name="wheel")
def a_wheel(home: Path) -> Path:
    """The package of cloth images as if it had been fetched, with four of each class."""
    wheel = home / "cache" / "demo" / f"{textile_data.SOURCE.package}-{textile_data.SOURCE.version}.whl"
    wheel.parent.mkdir(parents=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for image in TEXTILE.glob("*.jpg"):
            archive.write(image, f"{textile_data.SOURCE.member}/{image.name.split('_')[0]}/{image.name}")
    return wheel


def test_cloth_is_learnt_asked_about_and_reported(kastor: Kastor, wheel: Path, home: Path) -> None:
    small = ("--train", "6", "--held-out", "6", "--epochs", "1")
    ran = kastor("demo", "image", *small, "--out", "cloth.html", "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert told["job"]["state"] == "SUCCEEDED"
    assert told["numHeldOut"] == 6
    assert set(told["balancedAccuracy"]) == {"one answer", "base", "probe", "tuned"}
    assert told["balancedAccuracy"]["one answer"] == pytest.approx(1 / 3, abs=1e-4)
    page = (home / "cloth.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert "© 2025 Megahed" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    folder = home / "cache" / "demo" / "image"
    texts = [(folder / name).read_text() for name in ("train.jsonl", "held-out.jsonl")]
    learnt, asked = ([json.loads(line) for line in text.splitlines()] for text in texts)
    named = [{row["contents"][0]["parts"][0]["fileData"]["fileUri"] for row in rows} for rows in (learnt, asked)]
    assert len(named[0]) == len(named[1]) == 6
    assert not named[0] & named[1]


def test_clips_and_the_film_are_learnt_asked_about_and_reported(kastor: Kastor, home: Path) -> None:
    ran = kastor("demo", "video", "--train", "8", "--held-out", "4", "--epochs", "1", "--json")
    assert ran.code == 0, ran.err
    told = ran.json
    assert {part: told[part]["job"]["state"] for part in ("clips", "film")} == dict.fromkeys(
        ("clips", "film"), "SUCCEEDED"
    )
    assert set(told["clips"]["meanTemporalIou"]) == {"one answer", "base", "tuned"}
    assert 0 < told["clips"]["meanTemporalIou"]["one answer"] < 1
    assert told["film"]["numHeldOut"] == 4
    page = (home / "kastor-video.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * 6 + 4 * 2
    assert "Blender Foundation" in page


def test_more_images_than_there_are_is_refused_before_anything_starts(kastor: Kastor, wheel: Path) -> None:
    ran = kastor("demo", "image", "--train", "1500", "--held-out", "30")
    assert ran.code == 1
    assert "1500 + 30 images are more than the 1500 available" in ran.err
