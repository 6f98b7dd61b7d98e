"""Moments in texts: found where they are, left alone where they only look so, moved, shared out, and back again."""

import json
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.dataset.prepare.split_example import (
    CannotSplit,
    Window,
    part_boundaries,
    split_example,
    unconverted_timestamps,
)
from kastor.dataset.timestamps.config import TimestampConfig, load_timestamp_config
from kastor.dataset.timestamps.rewrite import TimestampedText
from kastor.domain.content import Content, Example, Media, Role, Text
from kastor.domain.errors import InvalidArgument

FILM = Media("video/mp4", "film.mp4")
CUT = (0, 300, 600)


def windows(cuts: tuple[Any, ...] = CUT, *, moved: bool = True) -> list[Window]:
    parts = list(pairwise(map(Fraction, cuts)))
    last = len(parts) - 1
    return [Window(low, high, low if moved else Fraction(0), i == 0, i == last) for i, (low, high) in enumerate(parts)]


def shares(text: str, cuts: tuple[Any, ...] = CUT, forms: TimestampConfig = TimestampConfig()) -> list[str | None]:  # noqa: B008
    timed = TimestampedText(text, Fraction(cuts[-1]), forms)
    found = [timed.share(window) for window in windows(cuts)]
    return [None if share is None else share.text for share in found]


def example(prompt: str, answer: str) -> Example:
    return Example((Content(Role.USER, (FILM, Text(prompt))), Content(Role.MODEL, (Text(answer),))))


def cut(prompt: str, answer: str, *, copy_untimed: bool = False) -> list[tuple[int, str, str]]:
    rows = split_example(
        example(prompt, answer),
        windows(),
        lambda place, medium: Media(medium.mime_type, f"{place}.mp4"),
        Fraction(600),
        TimestampConfig(),
        copy_untimed=copy_untimed,
    )
    return [(row.part, row.example.contents[0].text, row.example.contents[1].text) for row in rows]


@pytest.mark.parametrize("answer", ["330", "330.", "[330] car", "A list:\n330.5 - a car", "(330)"])
def test_a_bare_number_that_may_be_a_moment_answers_no_timed_prompt_without_a_word(answer: str) -> None:
    with pytest.raises(CannotSplit, match="330.*may be a moment, as the prompt has moments, but has no unit"):
        cut("When does the car that is seen at 05:25 stop?", answer)


@pytest.mark.parametrize("answer", ["2", "3 cars", "700", "Car 330", "330th", "330% more"])
def test_a_count_answers_a_timed_prompt(answer: str) -> None:
    assert cut("How many cars are seen at 05:25?", answer) == [(1, "How many cars are seen at 00:25?", answer)]


MOVED = {
    "at 05:30": "at 00:30",
    "at 5:30.25!": "at 0:30.25!",
    "at 00:05:30": "at 00:00:30",
    "at 0:05:30.5,": "at 0:00:30.5,",
    "00:05:30,500 --> 00:05:31,000": "00:00:30,500 --> 00:00:31,000",
    "at 305.5s.": "at 5.5s.",
    "at 310 seconds": "at 10 seconds",
    "at 310000 ms": "at 10000 ms",
    "at 5m10s": "at 0m10s",
    "at 5 min 10 s": "at 0 min 10 s",
    "[5:05-5:20]": "[0:05-0:20]",
    "from 05:00 to 05:30": "from 00:00 to 00:30",
    "05:00 – 05:30": "00:00 – 00:30",
    "between 310 and 320 s": "between 10 and 20 s",
    "310.5-320.0s": "10.5-20.0s",
    '{"start": 310, "end": 320.50}': '{"start": 10, "end": 20.50}',
    '{"startTimeMs": 310000, "end_time_ms": 310500}': '{"startTimeMs": 10000, "end_time_ms": 10500}',
    '{"timestamp": "05:10", "n": 310}': '{"timestamp": "00:10", "n": 310}',
    '{"time": "310.5"}': '{"time": "10.5"}',
    '{"start": 310, "duration": 5}': '{"start": 10, "duration": 5}',
    '{"segment": [310, 320]}': '{"segment": [10, 20]}',
    '```json\n{"offset": 310}\n```': '```json\n{"offset": 10}\n```',
    '{"time": "5:10 \\u2013 5:20"}': '{"time": "0:10 \\u2013 0:20"}',
    '{"say": "from 5:10 to 5:20\\n"}': '{"say": "from 0:10 to 0:20\\n"}',
}


@pytest.mark.parametrize("text", MOVED)
def test_each_form_keeps_its_form_on_the_new_timeline(text: str) -> None:
    assert shares(text) == [None, MOVED[text]]


ALIKE = {
    "in 4:3 or 16:9": [],
    "as John 3:16 says": ["looks like a verse"],
    "aspect ratio 2:35": ["looks like a ratio or a score"],
    "they won 2:10": ["looks like a ratio or a score"],
    "at 4:30 pm": ["looks like a time of day"],
    "at 4:30 o'clock": ["looks like a time of day"],
    "on 2024-05-01 04:30:00": ["looks like a time of day"],
    "waits for 12 seconds": ["looks like a length of time, not a moment"],
    "12 s later": ["looks like a length of time, not a moment"],
    "the 90s": ["looks like a decade"],
    "as MM:SS, e.g. 01:15": ["looks like an example of the form"],
    "version 1.2:30": [],
}


@pytest.mark.parametrize("text", ALIKE)
def test_what_only_looks_like_a_moment_is_left_alone_and_said_so(text: str) -> None:
    timed = TimestampedText(text, Fraction(600), TimestampConfig())
    assert not timed.marks
    assert [left.why for left in timed.left] == ALIKE[text]
    assert all(
        f"“{left.text}”" in " ".join(unconverted_timestamps(example(text, "x"), Fraction(600), TimestampConfig()))
        for left in timed.left
    )


def test_lines_go_to_the_part_they_fall_in_and_one_over_the_cut_goes_to_both() -> None:
    text = "What happens:\n0:05-0:20 dog\n  barks\n4:50-5:10 cat\n9:00-9:30 bird"
    assert shares(text) == [
        "What happens:\n0:05-0:20 dog\n  barks\n4:50-5:00 cat",
        "What happens:\n0:00-0:10 cat\n4:00-4:30 bird",
    ]
    notes = [
        share.notes
        for window in windows()
        if (share := TimestampedText(text, Fraction(600), TimestampConfig()).share(window))
    ]
    assert notes[0] == ("clipped at the cut: 4:50-5:10 is 4:50 to 5:00 here",)


def test_elements_of_json_are_shared_out_and_all_else_stays_to_the_letter() -> None:
    text = '{ "film":"x",\n "events": [ {"t": 5,"e":"\\u00e9"} ,\n  {"t": 305, "e":"b"},{"t":310,"e":"c"} ] }'
    assert shares(text) == [
        '{ "film":"x",\n "events": [ {"t": 5,"e":"\\u00e9"} ] }',
        '{ "film":"x",\n "events": [ {"t": 5, "e":"b"},{"t":10,"e":"c"} ] }',
    ]


def test_a_length_is_clipped_with_its_element() -> None:
    assert shares('[{"start": 295, "duration": 10}]') == [
        '[{"start": 295, "duration": 5}]',
        '[{"start": 0, "duration": 5}]',
    ]


CANNOT = {
    '{"timestamps": [[0,15],[310,320]], "sentences": ["a","b"]}': "side by side",
    '[{"start": 310000, "end": 320000}]': "is it in its unit",
    '[{"start": 20, "end": 10}]': "before the start",
    '[{"start": 2, "end": 10}, {"text": "b"}]': "only some elements",
    "00:10 dog\n59:00 cat\n00:50 bird": "lies beyond",
}


@pytest.mark.parametrize("text", CANNOT)
def test_what_cannot_be_told_for_sure_is_not_guessed(text: str) -> None:
    with pytest.raises(CannotSplit) as caught:
        TimestampedText(text, Fraction(600), TimestampConfig())
    assert CANNOT[text] in caught.value.why


def test_prose_goes_whole_where_all_its_moments_fall() -> None:
    assert cut("When?", "At 05:10, and from 05:20 to 06:00.") == [(1, "When?", "At 00:10, and from 00:20 to 01:00.")]
    with pytest.raises(CannotSplit, match="several parts"):
        cut("When?", "At 00:10 and at 05:20.")
    with pytest.raises(CannotSplit, match="several parts"):
        cut("When?", "From 04:50 to 05:20.")


def test_an_answer_without_moments_follows_the_prompt() -> None:
    assert cut("What is at 07:00?", "A bird.") == [(1, "What is at 02:00?", "A bird.")]
    with pytest.raises(CannotSplit, match="neither the prompt nor the answer"):
        cut("What is it about?", "A bird.")
    assert [row[0] for row in cut("What is it about?", "A bird.", copy_untimed=True)] == [0, 1]


def test_a_range_in_the_prompt_is_clipped_with_the_list_that_answers_it() -> None:
    assert cut("From 00:00 to 10:00?", "[1:00] a\n[6:00] b") == [
        (0, "From 00:00 to 05:00?", "[1:00] a"),
        (1, "From 00:00 to 05:00?", "[1:00] b"),
    ]
    with pytest.raises(CannotSplit, match="different parts"):
        cut("What is after 00:10?", "[1:00] a\n[6:00] b")


def test_windows_of_the_same_file_keep_their_moments() -> None:
    timed = TimestampedText("[1:00] a\n[6:00] b", Fraction(600), TimestampConfig())
    said = [timed.share(window) for window in windows(moved=False)]
    assert [share.text for share in said if share] == ["[1:00] a", "[6:00] b"]


def test_ones_own_patterns_and_keys_come_first(tmp_path: Path) -> None:
    file = tmp_path / "forms.toml"
    file.write_text(
        "[[pattern]]\nname = 'arrow'\nregex = 'T<(?P<start>[0-9.]+)/(?P<end>[0-9.]+)>'\nunit = 's'\n"
        "[[pattern]]\nname = 'score'\nregex = 'score [0-9:]+'\nignore = true\n"
        "[[key]]\nname = 'cue'\nmeans = 'point'\nunit = 'ms'\n"
    )
    forms = load_timestamp_config(file)
    assert shares("T<310.0/320.5> score 5:10", forms=forms) == [None, "T<10.0/20.5> score 5:10"]
    assert shares('{"cue": 310000}', forms=forms) == [None, '{"cue": 10000}']
    for wrong in (
        "[[pattern]]\nname='a'\nregex='('",
        "[[pattern]]\nname='a'\nregex='b'",
        "[[key]]\nname='a'\nmeans='b'",
        "[x]",
    ):
        file.write_text(wrong)
        with pytest.raises(InvalidArgument):
            load_timestamp_config(file)


def test_windows_end_between_ranges_where_they_can() -> None:
    spans = [(Fraction(low), Fraction(low + 40)) for low in range(0, 600, 40)]
    found = part_boundaries(Fraction(0), Fraction(600), Fraction(100), spans)
    assert all(after - before <= 100 for before, after in pairwise(found))
    assert not [at for at in found for low, high in spans if low < at < high]


FORMS = st.sampled_from(
    ["{m:02d}:{s:02d}", "{h:02d}:{q:02d}:{s:02d}", "{m:02d}:{s:02d}.{f:03d}", "{t}.{f:03d}s", "{t} s"]
)
times = st.tuples(st.integers(0, 3599), st.integers(0, 999))


def written(form: str, time: tuple[int, int]) -> str:
    whole, part = time
    return form.format(h=whole // 3600, q=whole // 60 % 60, m=whole // 60, s=whole % 60, f=part, t=whole)


@settings(max_examples=150, deadline=None)
@given(FORMS, st.lists(times, min_size=1, max_size=5), st.fractions(0, 2900, max_denominator=1000), st.booleans())
def test_moving_a_text_and_moving_it_back_is_the_identity(
    form: str, moments: list[tuple[int, int]], zero: Fraction, as_json: bool
) -> None:
    late = [(whole + 3001, part) for whole, part in sorted(moments)]
    said = [written(form, moment) for moment in late]
    text = json.dumps([{"at": one, "n": 1} for one in said]) if as_json else ", then at ".join(["", *said, "the end"])
    there = TimestampedText(text, Fraction(10_000), TimestampConfig()).share(
        Window(Fraction(0), Fraction(10_000), zero)
    )
    assert there is not None
    back = TimestampedText(there.text, Fraction(10_000), TimestampConfig()).share(
        Window(Fraction(0), Fraction(10_000), -zero), ties_up=False
    )
    assert back is not None
    assert back.text == text


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 599_000), st.integers(0, 100_000)), min_size=1, max_size=12),
    st.lists(st.integers(1, 599_999), max_size=4, unique=True),
    st.booleans(),
)
def test_every_element_is_in_exactly_the_parts_that_its_interval_meets(
    spans: list[tuple[int, int]], inner: list[int], as_lines: bool
) -> None:
    cuts = [0, *sorted(inner), 600_000]
    elements = [
        {"start_ms": low, "end_ms": min(600_000, low + length), "n": n} for n, (low, length) in enumerate(spans)
    ]
    lines = [json.dumps(element) for element in elements]
    text = "\n".join(lines) if as_lines and len(lines) > 1 else "[" + ", ".join(lines) + "]"
    found = shares(text, tuple(Fraction(at, 1000) for at in cuts))
    for (low, high), share in zip(pairwise(cuts), found, strict=True):
        body = share or "[]"
        got = json.loads(body) if body.startswith("[") else [json.loads(line) for line in body.split("\n")]
        wanted = [
            {"start_ms": max(e["start_ms"], low) - low, "end_ms": min(e["end_ms"], high) - low, "n": e["n"]}
            for e in elements
            if (e["start_ms"] < high or high == 600_000)
            and (e["end_ms"] > low or low == 0 or e["start_ms"] == e["end_ms"] == low)
        ]
        assert got == wanted
