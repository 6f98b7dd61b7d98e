"""What one process found out about a content, another need not open the file for."""

from pathlib import Path

import pytest

from kastor.dataset.media.inspect import open_inspector
from kastor.dataset.media.inspection_cache import InspectionCache
from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.domain.content import Media
from kastor.media.cache import MediaCache
from kastor.media.fetch import AllowedSources
from support.prompt_media import make_picture, make_video


def looked(folder: Path, *media: Media) -> list[InspectionResult]:
    """As a fresh process would look."""
    cache = MediaCache(folder / "cache")
    with open_inspector(cache, AllowedSources((folder,), ()), name="test") as looker:
        found = looker.look(media)
    return [found[one] for one in media]


def test_a_second_process_finds_the_same_without_opening_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [
        make_picture(tmp_path / "1.png", 1),
        make_video(tmp_path / "1.mp4"),
        make_video(tmp_path / "1.mp4", fps=2.0, end_s=1.5),
    ]
    first = looked(tmp_path, *media)
    monkeypatch.setattr("sys.executable", "/nowhere")  # no child process can start any more
    assert looked(tmp_path, *media) == first
    assert all(isinstance(one, InspectedMedium) for one in first)


def test_another_content_or_another_question_is_looked_at_anew(tmp_path: Path) -> None:
    cache = MediaCache(tmp_path / "cache")
    film = make_video(tmp_path / "1.mp4")
    (seen,) = looked(tmp_path, film)
    assert isinstance(seen, InspectedMedium)
    file = seen.file
    assert InspectionCache(cache).get(file, film) == seen
    assert InspectionCache(cache).get(file, Media("video/mp4", film.uri, fps=2.0)) is None
    assert InspectionCache(cache).get(type(file)(file.path, "cd" * 32, file.num_bytes), film) is None


def test_the_results_used_least_recently_leave_memory_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kastor.dataset.media.inspection_cache.MAX_REMEMBERED", 2)
    pictures = [make_picture(tmp_path / f"{number}.png", number) for number in (1, 2, 3)]
    first, second, third = looked(tmp_path, *pictures)
    assert isinstance(first, InspectedMedium) and isinstance(second, InspectedMedium)
    assert isinstance(third, InspectedMedium)
    cache = InspectionCache()
    cache.put(first, pictures[0])
    cache.put(second, pictures[1])
    cache.get(first.file, pictures[0])
    cache.put(third, pictures[2])
    assert cache.get(first.file, pictures[0]) == first
    assert cache.get(second.file, pictures[1]) is None
