"""A prepared dataset passes the gate, its moments show what they showed, and no row vanishes without a word."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from filelock import FileLock

from kastor.dataset.formats.read import read_rows
from kastor.dataset.media.inspect import DatasetMediaInspector
from kastor.dataset.prepare.media import Made
from kastor.dataset.prepare.plan import MediaAction, MediaStep, Options, PreparePlan, Strategy, TimestampOrigin
from kastor.dataset.prepare.run import DatasetPreparation
from kastor.dataset.prepare.write import CHANGES, DATASET, LEDGER, PrepareLedger, document
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, RowOutcome, RowVerdict
from kastor.domain.content import Media, Resolution
from kastor.domain.dataset_limits import DatasetLimits, dataset_limits
from kastor.domain.errors import FailedPrecondition
from kastor.domain.media import FrameSampling
from kastor.media.cache import MediaCache
from kastor.media.decode import request_frames
from kastor.media.decode_limits import DecodeLimits
from kastor.media.fetch import AllowedSources, Fetcher
from kastor.media.probe import MediaProber, plan, probe
from kastor.models.chat.families import NANO_VL
from support.films import Recipe, make_film, number_in

SHARED = Path(__file__).parents[3] / "shared" / "media" / "videos"
LIMITS = dataset_limits("vertex-gemini-2.5")
BASE = BaseModelLimits("models/b", 1 << 30, NANO_VL.vision)
FILM = Recipe(num_frames=100, gop=10, codec_options={"sc_threshold": "0"})  # 10 s
SHORT = replace(LIMITS, max_video_s=dict.fromkeys(Resolution, 4.0))


def row(prompt: str, answer: str, uri: str = "film.mp4", *, kind: str = "video/mp4", **segment: str) -> dict[str, Any]:
    medium = {"fileData": {"mimeType": kind, "fileUri": uri}} | ({"videoMetadata": segment} if segment else {})
    turns = [{"role": "user", "parts": [medium, {"text": prompt}]}, {"role": "model", "parts": [{"text": answer}]}]
    return {"contents": turns, "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_MEDIUM"}}


class World:
    """A folder with a dataset, and the means to prepare it into another."""

    def __init__(self, folder: Path, limits: DatasetLimits) -> None:
        self.folder, self.limits, self.out = folder, limits, folder / "out"
        self.options = Options(drop_share=0)

    def write(self, *rows: dict[str, Any] | str) -> None:
        lines = [one if isinstance(one, str) else json.dumps(one) for one in rows]
        (self.folder / "data.jsonl").write_text("\n".join(lines) + "\n")

    @contextmanager
    def media(self, base: Path) -> Iterator[tuple[DatasetMediaInspector, Fetcher]]:
        cache = MediaCache(self.folder / "cache")
        lease = cache.lease("test")
        fetcher = Fetcher(cache, lease, AllowedSources(folders=(self.folder, SHARED), base=base))
        with DatasetMediaInspector(fetcher, MediaProber()) as looker:
            yield looker, fetcher
        lease.close()

    def planned(self) -> PreparePlan:
        with self.media(self.folder) as (looker, fetcher):
            return self._preparation(looker, fetcher).plan()

    def prepared(self, on_done: Callable[[MediaStep, Made], None] = lambda step, made: None) -> PrepareLedger:
        with self.media(self.folder) as (looker, fetcher):
            preparation = self._preparation(looker, fetcher)
            return preparation.run(preparation.plan(), self.out, on_done)

    def _preparation(self, looker: DatasetMediaInspector, fetcher: Fetcher) -> DatasetPreparation:
        def path_of(medium: Media) -> Path:
            return (fetcher.fetch_bytes(medium.data) if medium.data else fetcher.fetch(medium.uri)).path

        return DatasetPreparation(
            lambda: read_rows(self.folder / "data.jsonl"),
            self.limits,
            BASE,
            looker.look,
            path_of,
            self.options,
            DecodeLimits(),
        )

    def verdicts(self) -> list[RowVerdict]:
        """What the gate says of the outcome."""
        with self.media(self.out) as (looker, _):
            return list(DatasetValidator(self.limits, BASE, looker.look).verdicts(read_rows(self.out / DATASET)))

    def rows(self) -> list[tuple[dict[str, Any], str, str]]:
        """(medium, prompt, answer) of each row of the outcome."""
        lines = (self.out / DATASET).read_text().splitlines()
        turns = [json.loads(line)["contents"] for line in lines]
        return [(t[0]["parts"][0], t[0]["parts"][1]["text"], t[1]["parts"][0]["text"]) for t in turns]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, SHORT)


def shown_at(path: Path, moments_s: Sequence[float]) -> list[int]:
    """The numbers painted on the frames at these moments."""
    planned = [plan(path, FrameSampling(start_s=moment, end_s=moment + 0.01)).plan for moment in moments_s]
    return [number_in(next(request_frames(path, one)).pixels) for one in planned]


def test_annotated_moments_still_show_the_frames_they_showed(world: World) -> None:
    film = make_film(world.folder / "film.mp4", replace(FILM, size=(128, 96), noise=True))
    before = film.read_bytes()
    world.limits = replace(SHORT, max_video_bytes=len(before) // 2)
    events = [{"time": round(0.3 + 1.7 * n, 1), "frame": round(3 + 17 * n)} for n in range(6)]
    lines = "\n".join(f"[00:{event['time']:04.1f}] frame {event['frame']}" for event in events)
    world.options = Options(strategy=Strategy.CUT)
    world.write(row("List.", json.dumps(events)), row("List.", lines), row("Which frame is at 5.4s?", "54"))
    ledger = world.prepared()
    assert (ledger.num_rows, ledger.num_changed, ledger.num_rows_out) == (3, 3, 2 * 3 + 1)
    told = []
    for medium, prompt, answer in world.rows():
        path = world.out / medium["fileData"]["fileUri"]
        if answer.startswith("[{"):
            found = [(event["time"], event["frame"]) for event in json.loads(answer)]
        elif answer.startswith("["):
            found = [(float(line[4:8]), int(line.split()[-1])) for line in answer.splitlines()]
        else:
            found = [(float(prompt.split()[-1].removesuffix("s?")), 54)]
        assert shown_at(path, [moment for moment, _ in found]) == [number for _, number in found]
        told += [number for _, number in found]
    wanted = [event["frame"] for event in events]
    assert sorted(told) == sorted([*wanted, *wanted, 54])
    assert [verdict.outcome for verdict in world.verdicts()] == [RowOutcome.ACCEPTED] * ledger.num_rows_out
    assert film.read_bytes() == before


def test_a_file_that_is_only_too_long_is_not_cut_but_looked_at_in_windows(world: World) -> None:
    film = make_film(world.folder / "film.mp4", FILM)
    world.write(
        row("List.", "[0:01-0:03] a\n[0:03-0:06] b\n[0:08] c"), row("Short?", "Yes.", startOffset="1s", endOffset="4s")
    )
    ledger = world.prepared()
    assert (ledger.num_kept, ledger.num_changed, ledger.num_rows_out) == (1, 1, 4)
    assert [(m.get("videoMetadata"), answer) for m, _, answer in world.rows()] == [
        ({"endOffset": "3s"}, "[0:01-0:03] a"),
        ({"startOffset": "3s", "endOffset": "6s"}, "[0:03-0:06] b"),
        ({"startOffset": "6s", "endOffset": "10s"}, "[0:08] c"),
        ({"startOffset": "1s", "endOffset": "4s"}, "Yes."),
    ]
    (one,) = (world.out / "media").iterdir()
    assert one.read_bytes() == film.read_bytes()
    assert not [issue for verdict in world.verdicts() for issue in verdict.issues]


def test_moments_may_count_from_the_segment(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    world.options = Options(times_from=TimestampOrigin.SEGMENT)
    world.write(row("List.", "[0:01] a\n[0:05] b", startOffset="2s", endOffset="10s"))
    world.prepared()
    assert [(m["videoMetadata"], answer) for m, _, answer in world.rows()] == [
        ({"startOffset": "2s", "endOffset": "6s"}, "[0:03] a"),
        ({"startOffset": "6s", "endOffset": "10s"}, "[0:07] b"),
    ]


def test_moments_that_count_from_a_segment_count_from_the_film_and_no_other_clock_changes(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    world.limits = LIMITS
    world.options = Options(times_from=TimestampOrigin.SEGMENT, strategy=Strategy.DROP)
    shared = "Use timestamps like 1:05."
    world.write(
        row(shared, "[0:01] a", startOffset="2s", endOffset="9s"),
        row(shared, "[0:01] a"),
        row("What is at 0:01?", "A car.", startOffset="3s"),
        row("List.", "[0:08] just beyond", startOffset="2s", endOffset="9s"),
        row("List.", "[0:09] beyond", startOffset="2s", endOffset="9s"),
    )
    ledger = world.prepared()
    assert [(prompt, answer) for _, prompt, answer in world.rows()] == [
        (shared, "[0:03] a"),
        (shared, "[0:01] a"),
        ("What is at 0:04?", "A car."),
        ("List.", "[0:10] just beyond"),
    ]
    assert (ledger.num_kept, ledger.num_changed, ledger.left_out) == (1, 3, {"cannot_cut": 1})
    assert ledger.findings == {"moment_outside_segment": 1}
    assert "“0:09” lies beyond the 7.0 s" in (world.out / CHANGES).read_text()


def test_a_moment_outside_the_segment_of_its_row_is_a_finding(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    world.write(
        row("List.", "[0:01] a", startOffset="6s", endOffset="9s"),
        row("List.", "[0:08] a", startOffset="7s", endOffset="9s"),
        row("?", "Yes."),
        row("List.", "[0:01] outside\n[0:04] a\n[0:08] b", startOffset="2s"),
    )
    ledger = world.prepared()
    assert (ledger.num_kept, ledger.findings) == (2, {"moment_outside_segment": 2})
    assert (ledger.num_rows, ledger.num_changed) == (4, 1)
    page = (world.out / CHANGES).read_text()
    assert "“0:01” lies outside the segment from 6 s to 9 s" in page
    assert "--times-from segment" in page
    found = [issue for verdict in world.verdicts() for issue in verdict.issues]
    assert [(issue.line, issue.rule) for issue in found] == [
        (1, "moment_outside_segment"),
        (3, "moment_outside_segment"),
    ]


def test_a_prompt_that_several_rows_share_takes_no_row_away(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    prompt = "List it by the clock. The clock of the station at 0:59 is wrong."
    world.write(*(row(prompt, f"[0:01] {name}\n[0:08] b") for name in "abc"))
    assert world.prepared().num_changed == 3
    assert {asked for _, asked, _ in world.rows()} == {prompt}
    assert "stands in a prompt that several rows share" in (world.out / CHANGES).read_text()


def test_the_page_of_changes_has_totals_the_texts_left_out_and_parts_without_events(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    world.write(row("List.", "[0:01] <a>\n[0:09] b"), row("Where <is> it?", "A wall says 0:07."))
    ledger = world.prepared()
    page = (world.out / CHANGES).read_text()
    assert "<tr><th>rows in</th><td>2</td></tr>" in page
    assert "<tr><th>left out: cannot_cut</th><td>1</td></tr>" in page
    assert "<pre>Where &lt;is&gt; it?</pre>" in page
    assert "<pre>A wall says 0:07.</pre>" in page
    assert ledger.num_empty_parts == 1
    assert "no row is about the video from 0:04 to 0:08" in page
    assert [path.name for path in world.out.iterdir() if path.name.endswith(".part")] == []


def test_every_row_is_kept_changed_or_left_out_with_its_reason(world: World) -> None:
    make_film(world.folder / "film.mp4", FILM)
    world.write(
        row("List.", "[0:01] a\n[0:08] b"),
        row("What is it about?", "Frames."),
        row("When?", "At 0:01 and 0:09."),
        row("Where?", "Nowhere.", "absent.mp4"),
        "{not json",
        {"text_input": "1", "output": "2"},
    )
    ledger = world.prepared()
    assert document(ledger) == json.loads((world.out / LEDGER).read_text())
    assert ledger.num_rows == 6 == ledger.num_kept + ledger.num_changed + ledger.left_out.total()
    assert ledger.left_out == {"cannot_cut": 2, "media_not_found": 1, "not_json": 1}
    page = (world.out / CHANGES).read_text()
    assert all(f"Line {line} is left out" in page for line in (2, 3, 4, 5))
    assert "several parts of the video" in page
    assert '<section id="line-1">' in page
    assert "http" not in page


def test_few_large_files_are_left_out_many_are_scaled_down(world: World) -> None:
    film = make_film(world.folder / "film.mp4", replace(FILM, size=(1024, 768), num_frames=10, noise=True))
    picture = np.random.default_rng(0).integers(0, 255, (700, 800, 3), np.uint8)
    PIL.Image.fromarray(picture).save(world.folder / "a.png")
    small = film.stat().st_size - 1
    world.limits = replace(LIMITS, max_video_bytes=small, max_image_bytes=1_000_000)
    still = row("What?", "Noise.", "a.png", kind="image/png")
    pairs = [{"text_input": "1", "output": "2"}] * 10
    world.write(row("What?", "Frames."), still, *pairs)
    assert world.planned().counts() == {MediaAction.SHRINK: 2}
    world.options = Options(drop_share=0.2)
    assert world.planned().counts() == {MediaAction.DROP: 2}
    assert world.prepared().left_out == {"oversized_left_out": 2}
    world.options = Options(drop_share=0, num_jobs=1)
    ledger = world.prepared()
    assert (ledger.num_kept, ledger.num_changed, ledger.num_rows_out) == (10, 2, 12)
    made = {medium["fileData"]["mimeType"]: medium["fileData"]["fileUri"] for medium, _, _ in _with_media(world)}
    known = probe(world.out / made["video/mp4"])
    assert (known.width, known.height, known.num_frames) == (684, 512, 10)
    assert probe(world.out / made["image/png"]).height == 512
    assert not [issue for verdict in world.verdicts() for issue in verdict.issues]


def _with_media(world: World) -> list[tuple[dict[str, Any], str, str]]:
    lines = [json.loads(line)["contents"] for line in (world.out / DATASET).read_text().splitlines()]
    return [(t[0]["parts"][0], "", "") for t in lines if "fileData" in t[0]["parts"][0]]


def test_a_run_that_was_stopped_goes_on_where_it_was(world: World) -> None:
    for name in ("a.mp4", "b.mp4"):
        make_film(
            world.folder / name, replace(FILM, size=(128, 96), noise=True, num_frames=50 if name == "a.mp4" else 60)
        )
    world.limits = replace(SHORT, max_video_bytes=(world.folder / "a.mp4").stat().st_size // 2)
    world.options = Options(strategy=Strategy.CUT, num_jobs=1)
    world.write(row("List.", "[0:01] a\n[0:04] b", "a.mp4"), row("List.", "[0:01] a\n[0:04] b", "b.mp4"))

    class Stopped(Exception):
        pass

    def stop(step: MediaStep, made: Made) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        world.prepared(stop)
    assert not (world.out / DATASET).exists()
    state = world.out / "state.jsonl"
    state.write_bytes(state.read_bytes() + b'{"recipe": "cut o')  # as a kill leaves it
    torn = world.out / "media" / "b-001.mp4.part"
    torn.write_bytes(b"half")
    first = {path.name: path.stat().st_mtime_ns for path in (world.out / "media").glob("a-*")}
    assert first
    world.prepared()
    again = {path.name: path.stat().st_mtime_ns for path in (world.out / "media").glob("a-*")}
    assert again == first
    assert not torn.exists()
    assert not [issue for verdict in world.verdicts() for issue in verdict.issues]
    outcome = (world.out / DATASET).read_bytes()
    stamps = {path: path.stat().st_mtime_ns for path in (world.out / "media").iterdir()}
    world.prepared()
    assert (world.out / DATASET).read_bytes() == outcome
    assert {path: path.stat().st_mtime_ns for path in (world.out / "media").iterdir()} == stamps


def test_a_file_that_is_only_scaled_down_leaves_the_texts_alone_even_those_nobody_understands(world: World) -> None:
    film = make_film(world.folder / "film.mp4", replace(FILM, size=(1024, 768), num_frames=10, noise=True))
    world.limits = replace(LIMITS, max_video_bytes=film.stat().st_size - 1)
    answer = '[{"start": 99000, "end": 7}]'
    world.write(row("When?", answer))
    ledger = world.prepared()
    assert (ledger.num_changed, [said for _, _, said in world.rows()]) == (1, [answer])


def test_two_runs_never_write_into_one_folder(world: World) -> None:
    make_film(world.folder / "film.mp4", Recipe(num_frames=2))
    world.write(row("What?", "Frames."))
    world.out.mkdir()
    with FileLock(world.out / ".lock"), pytest.raises(FailedPrecondition, match="Another kastor prepare"):
        world.prepared()
    assert world.prepared().num_kept == 1


@pytest.mark.skipif(not SHARED.is_dir(), reason="no sample media here")
def test_the_ten_minute_film_and_its_segments_become_parts(world: World) -> None:
    world.limits = replace(LIMITS, max_video_bytes=1_500_000)
    segments = json.loads((SHARED / "big_buck_bunny_segments.json").read_text())["segments"]
    film = str(SHARED / "big_buck_bunny_10min.mp4")
    lines = "\n".join(f"{s['start'] // 60:02d}:{s['start'] % 60:02d} {s['text']}" for s in segments)
    world.write(row("List.", json.dumps(segments), film), row("List.", lines, film))
    ledger = world.prepared()
    assert ledger.num_changed == 2
    rows = world.rows()
    assert not [issue for verdict in world.verdicts() for issue in verdict.issues]
    listed = [json.loads(answer) for _, _, answer in rows if answer.startswith("[")]
    cuts = len(listed) - 1
    assert cuts >= 2
    assert sum(map(len, listed)) <= len(segments) + cuts
    assert {s["text"] for part in listed for s in part} == {s["text"] for s in segments}
    assert sum(len(answer.splitlines()) for _, _, answer in rows if not answer.startswith("[")) == len(segments)
    lengths = [sum(s["end"] - s["start"] for s in part) for part in listed]
    assert sum(lengths) == pytest.approx(596, abs=cuts + 1)
