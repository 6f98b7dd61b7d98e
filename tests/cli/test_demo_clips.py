"""Clips made for the video demo: what the files show is what their annotation says, to the frame."""

from collections import Counter
from pathlib import Path

import numpy as np

from kastor.cli.demos import clip_data, film_data, localisation
from kastor.cli.demos.clip_data import FRAMES_PER_S, SHAPES, Clip, generate_clips, pictures
from kastor.domain.media import FrameSampling
from kastor.domain.vision import clock_timestamp
from kastor.evaluation.interval_parser import parse_interval
from kastor.media.decode import request_frames
from kastor.media.probe import plan


def shown_in(path: Path, clip: Clip) -> list[bool]:
    """Of each frame in the file whether it shows the shape where the clip has it, by its colour."""
    hidden = list(pictures(Clip(clip.seed, clip.seconds, clip.shape, 0, 0)))
    present = list(pictures(Clip(clip.seed, clip.seconds, clip.shape, clip.start_s, clip.end_s)))
    found = []
    decoded = request_frames(path, plan(path, FrameSampling(fps=FRAMES_PER_S)).plan)
    for frame, without, painted in zip(decoded, hidden, present, strict=True):
        differs = np.abs(painted.astype(int) - without).max(axis=2) > 20
        if not differs.any():
            found.append(False)
            continue
        found.append(bool(np.abs(frame.pixels[differs].astype(int) - painted[differs]).mean() < 15))
    return found


def test_the_shape_is_in_every_frame_of_its_interval_and_in_no_other(tmp_path: Path) -> None:
    for index, clip in enumerate(generate_clips(5, 6, seed=3)):
        path = tmp_path / f"{index}.mp4"
        clip_data.encode_clip(path, clip)
        moments = [number / FRAMES_PER_S for number in range(clip.seconds * FRAMES_PER_S)]
        assert shown_in(path, clip) == [clip.start_s <= moment < clip.end_s for moment in moments]


def test_what_is_seen_at_one_frame_a_second_tells_both_moments(tmp_path: Path) -> None:
    clip = Clip(7, 6, "ring", 2, 4)
    clip_data.encode_clip(tmp_path / "clip.mp4", clip)
    found = plan(tmp_path / "clip.mp4", FrameSampling())
    assert found.probe.duration_s == 6.0
    assert found.plan.shown_s == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)
    assert [clip.shown_at(moment) for moment in found.plan.moments_s] == [False, False, True, True, False, False]


def test_shapes_come_in_equal_parts_and_intervals_vary() -> None:
    made = generate_clips(200, 6, seed=0)
    assert set(Counter(clip.shape for clip in made).values()) == {40}
    assert {shape for shape in SHAPES} == {clip.shape for clip in made}
    assert len({(clip.start_s, clip.end_s) for clip in made}) == 10
    assert all(1 <= clip.start_s < clip.end_s <= 5 for clip in made)
    assert made == generate_clips(200, 6, seed=0) != generate_clips(200, 6, seed=1)
    assert len({clip.seed for clip in made}) == 200


def test_an_answer_is_read_back_as_it_was_meant() -> None:
    clip = Clip(0, 6, "cross", 1, 4)
    said = localisation.answer(clip.shape, clip.start_s, clip.end_s)
    assert parse_interval(said) == localisation.span(clip)
    assert localisation.LocalisedEvent.of(said).label == "cross"
    assert f'"{clock_timestamp(4)}"' in said


def test_scores_tell_who_looked() -> None:
    made = generate_clips(20, 6, seed=0)
    right = [localisation.answer(clip.shape, clip.start_s, clip.end_s) for clip in made]
    found = localisation.LocalisationResult.of(made, made, ["no idea"] * 20, right)
    for values in found.scores.values():
        assert values["tuned"] == 1.0
        assert values["base"] == 0.0
        assert 0 < values["one answer"] < 1
    truth, tuned, base = found.answers_to(0)
    assert (truth.right, tuned.right, base.right) == (None, True, False)
    assert truth.span == tuned.span and base.span is None


def test_windows_of_the_film_lie_inside_acts_and_blocks_are_held_out() -> None:
    learnt, held_out = film_data.film_windows()
    assert {window.act for window in learnt} == {window.act for window in held_out}
    spans = [(window.start_s, window.end_s) for window in learnt + held_out]
    assert len(set(spans)) == len(spans) > 100
    assert not {start for start, _ in spans} & {470, 474, 585}  # between acts, and after the credits
    apart = [min(abs(window.start_s - other.start_s) for other in learnt) for window in held_out]
    assert max(apart) == 2 * film_data.WINDOW_S
