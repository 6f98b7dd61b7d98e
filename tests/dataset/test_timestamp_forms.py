"""Answers and prompts as people write them: each moment right on the new timeline, or the row left out with it."""

import contextlib
import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kastor.dataset.prepare.split_example import CannotSplit, Window, split_example
from kastor.dataset.timestamps.config import TimestampConfig
from kastor.dataset.timestamps.rewrite import TimestampedText
from kastor.domain.content import Content, Example, Media, Role, Text

CASES = json.loads(Path(__file__).with_name("timestamps.json").read_text())
ANSWERS = {case["name"]: case for case in CASES["answers"]}
FILM_S, CUT_S = Fraction(1500), Fraction(1127)


def cut(
    answer: str, prompt: str = "List what happens.", *, zero: Fraction = CUT_S, shared: bool = False
) -> dict[int, tuple[str, str]]:
    """Prompt and answer of each part of a film of 25 minutes that was cut at 1127 s."""
    turns = (Content(Role.USER, (Media("video/mp4", "a.mp4"), Text(prompt))), Content(Role.MODEL, (Text(answer),)))
    windows = [Window(Fraction(0), zero, last=False), Window(zero, FILM_S, zero, first=False)]
    rows = split_example(
        Example(turns),
        windows,
        lambda _, medium: medium,
        FILM_S,
        TimestampConfig(),
        is_shared=lambda text: shared and text == prompt,
    )
    return {row.part + 1: (row.example.contents[0].text, row.example.contents[1].text) for row in rows}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_right_on_the_new_timeline_or_left_out_with_its_text(name: str) -> None:
    case = ANSWERS[name]
    right = case["right"] if isinstance(case["right"], dict) else {"part 2": case["right"]}
    try:
        found = {f"part {part}": answer for part, (_, answer) in cut(case["answer"]).items()}
    except CannotSplit as cannot:
        assert "or" in case, cannot.why
        assert "“" in cannot.why
    else:
        assert found == right


@pytest.mark.parametrize("prompt", [case["prompt"] for case in CASES["prompts"]["list"]])
def test_an_ordinary_prompt_stays_as_it_is_beside_an_answer_that_is_cut(prompt: str) -> None:
    assert cut(CASES["prompts"]["answer"], prompt) == {2: (prompt, "[03:03 - 03:15] car")}


def test_seconds_and_nanoseconds_move_by_a_fraction_of_a_second() -> None:
    answer = ANSWERS["seconds and nanos"]["answer"]
    found = cut(answer, zero=Fraction("1128.6"))
    assert json.loads(found[2][1]) == [{"start": {"seconds": 181, "nanos": 650000000}}]


MOVED = {
    "At 21:50 the recording of 2024-05-01 at 20:15 ends.": {2: "At 03:03 the recording of 2024-05-01 at 20:15 ends."},
    "At 21:50 it waits for 5 to 10 seconds.": {2: "At 03:03 it waits for 5 to 10 seconds."},
    "1\r\n00:00:05,000 --> 00:00:09,000\r\nHi\r\n\r\n2\r\n00:21:50,000 --> 00:22:02,000\r\nBye\r\n": {
        1: "1\r\n00:00:05,000 --> 00:00:09,000\r\nHi\r\n",
        2: "1\r\n00:03:03,000 --> 00:03:15,000\r\nBye\r\n",
    },
    "0:05 car\r\n21:50 dog\r\n": {1: "0:05 car\r\n", 2: "03:03 dog\r\n"},
    '{"tIn": 1310, "tOut": 1322}': {2: '{"tIn": 183, "tOut": 195}'},
    '{"in_point": "21:50", "out_point": "22:02"}': {2: '{"in_point": "03:03", "out_point": "03:15"}'},
    '[{"time_in_seconds": 1310, "counts": [["men", 3, 2]]}]': {
        2: '[{"time_in_seconds": 183, "counts": [["men", 3, 2]]}]'
    },
    '{"start": 1310, "in": 3, "out": 2}': {2: '{"start": 183, "in": 3, "out": 2}'},
    "[21:50] 車は22:02に着く": {2: "[03:03] 車は22:02に着く"},
    "At 21:50 2,000 people came, 3 in, 2 out.": {2: "At 03:03 2,000 people came, 3 in, 2 out."},
    "21:50 El tren de las 20:15 llega tarde": {2: "03:03 El tren de las 20:15 llega tarde"},
    "* 21:50: car": {2: "* 03:03: car"},
    "21:50.250 car": {2: "03:03.250 car"},
    "[00:05.20]Hello\n[21:50.20]Bye": {1: "[00:05.20]Hello", 2: "[03:03.20]Bye"},
    "0:00 Intro\n21:50 Goal\n23:00 End": {1: "0:00 Intro", 2: "03:03 Goal\n04:13 End"},
    "1. 0:05 a\n2. 21:50 b\n3. 23:00 c": {1: "1. 0:05 a", 2: "1. 03:03 b\n2. 04:13 c"},
    "At 0:05 a dog.\nAt 21:50 a cat.": {1: "At 0:05 a dog.", 2: "At 03:03 a cat."},
    "A man enters at 21:50, sits at 21:58 and leaves at 22:10.": {
        2: "A man enters at 03:03, sits at 03:11 and leaves at 03:23."
    },
    "The ratio is 20:15 at 21:50.": {2: "The ratio is 20:15 at 03:03."},
    "The car waits for 5 seconds at 21:50.": {2: "The car waits for 5 seconds at 03:03."},
    "21m50s car": {2: "3m3s car"},
    "1310.5 s": {2: "183.5 s"},
    "1310-1322s: car": {2: "183-195s: car"},
    "21:50-22:02: car": {2: "03:03-03:15: car"},
    "**[21:50 - 22:02]** car": {2: "**[03:03 - 03:15]** car"},
    "21:50~22:02 car": {2: "03:03~03:15 car"},
    "21m50s - 22m2s: car": {2: "3m3s - 3m15s: car"},
    "(21:50) car": {2: "(03:03) car"},
    "At 21:50, the score is 21:19.": {2: "At 03:03, the score is 21:19."},
    '{"timestamp": "[21:50 - 22:02]", "unit": "s"}': {2: '{"timestamp": "[03:03 - 03:15]", "unit": "s"}'},
    '{"timestamps": [5, 1310]}': {1: '{"timestamps": [5]}', 2: '{"timestamps": [183]}'},
    "192.168.1.21 costs $21.50 at 21:50": {2: "192.168.1.21 costs $21.50 at 03:03"},
    '[{"t": 1310, "e": "x"}]': {2: '[{"t": 183, "e": "x"}]'},
    '[{"startTime": "21:50", "endTimeSeconds": 1322, "start_ms": 1310000}]': {
        2: '[{"startTime": "03:03", "endTimeSeconds": 195, "start_ms": 183000}]'
    },
    '[{"start": 1310, "end": 1322, "children": [{"start": 1311, "end": 1312, "text": "20:15"}]}]': {
        2: '[{"start": 183, "end": 195, "children": [{"start": 184, "end": 185, "text": "20:15"}]}]'
    },
    '{"start": {"seconds": "1310", "nanos": 5}}': {2: '{"start": {"seconds": "183", "nanos": 5}}'},
    '{"start_min": 21, "start_sec": 50}': {2: '{"start_min": 3, "start_sec": 3}'},
    '["0:05 car", "22:02 dog"]': {1: '["0:05 car"]', 2: '["03:15 dog"]'},
    '["21:50", "22:02"]': {2: '["03:03", "03:15"]'},
    '{"answer": "The car leaves at 21:50."}': {2: '{"answer": "The car leaves at 03:03."}'},
    '```json\n[{"start": 5}, {"start": 1310}]\n```': {
        1: '```json\n[{"start": 5}]\n```',
        2: '```json\n[{"start": 183}]\n```',
    },
    'Here:\n```json\n[{"start": 1310}]\n```\nBye': {2: 'Here:\n```json\n[{"start": 183}]\n```\nBye'},
    '{"start": 5, "e": 1}\n{"start": 1310, "e": 2}': {1: '{"start": 5, "e": 1}', 2: '{"start": 183, "e": 2}'},
    'start,end,text\n5,12,car\n1310,1322,"a, 20:15 train"': {
        1: "start,end,text\n5,12,car",
        2: 'start,end,text\n183,195,"a, 20:15 train"',
    },
    "time\ttext\n5.5\ta\n1310.5\tb": {1: "time\ttext\n5.5\ta", 2: "time\ttext\n183.5\tb"},
    "WEBVTT\n\n21:50.000 --> 22:02.000 align:start\n<00:21:51.000>Hi\n": {
        2: "WEBVTT\n\n03:03.000 --> 03:15.000 align:start\n<00:03:04.000>Hi\n"
    },
    "1\n00:00:05,000 --> 00:00:09,000\nHi\n\n2\n00:18:40,000 --> 00:18:50,000\nOver\n\n"
    "3\n00:21:50,000 --> 00:22:02,000\nBye": {
        1: "1\n00:00:05,000 --> 00:00:09,000\nHi\n\n2\n00:18:40,000 --> 00:18:47,000\nOver",
        2: "1\n00:00:00,000 --> 00:00:03,000\nOver\n\n2\n00:03:03,000 --> 00:03:15,000\nBye",
    },
}


@pytest.mark.parametrize("answer", MOVED)
def test_only_the_moments_of_an_answer_move(answer: str) -> None:
    assert {part: text for part, (_, text) in cut(answer).items()} == MOVED[answer]


DOUBTFUL = [
    "Um 21:50 fährt das Auto ab.",
    "À 21:50 la voiture part.",
    "00:21:50;12 car",
    "21分50秒 再见",
    "21：50 car",
    "٢١:٥٠ car",
    "John 3:16 and 21:50",
    "The poster says it begins at 21:50.",
    "At 21:50 he says the train leaves at 22:15.",
    "21:50 – car; 22:02 – dog",
    "[21:50] He leaves, and from 22:05 to 22:10 returns.",
    "[00:05.20][21:50.20]Hello",
    "21:50 Uhr: Auto",
    "It happens in minute 21.",
    "In the 21st minute it rains.",
    "At one minute it rains.",
    "frame 39300",
    "1310 - 1322: car",
    "from 1310 to 1322",
    "1.310 s car",
    "The car leaves after 310 s.",
    "Start: 21:50\nEnd: 22:02",
    "[21:50] A\n\n[22:02] B\n\nThe end.",
    "## One\n0:05 a\n## Two\n21:50 b",
    "start;end;text\n5;12;car\n1310,25;1322;dog",
    '<p begin="00:21:50.000" end="00:22:02.000">Hi</p>',
    "Dialogue: 0,0:21:50.00,0:22:02.00,Default,,0,0,0,,Hello",
    "| Zeit | E |\n|---|---|\n| 21:50 | a |",
    '{"frame": 39300}',
    '{"event": "car", "when": "21:50"}',
    '{"minute": 21, "event": "goal"}',
    '{"times": 1310}',
    '{"time": 1310000}',
    "[[5, 12], [1310, 1322]]",
    '{"inicio": 1310, "texto": "coche"}',
    '{"start": 21, "end": 22, "unit": "minutes"}',
    '{"fps": 30, "events": [{"start": 1310}]}',
    '{"start_min": 21.5, "event": "goal"}',
    '[{"time": "2024-05-01T21:50:00Z"}]',
    "| Time (min) | E |\n|---|---|\n| 21 | a |",
    "- start: 1310\n  end: 1322\n  text: car",
    '<event start="1310" end="1322">car</event>',
    "{'start': 1310, 'end': 1322}",
    "At 21.50 the car leaves.",
    "The car leaves at 1310.",
    "a) 21:50 goal",
    "【21:50】car",
    "00:21:50:12 car",
    '[{"from": "Alice", "to": "Bob", "text": "see you at 21:50"}]',
    "車は21:50に通る",
    "在21:50汽车经过",
    "第21分50秒 車が通る",
    "21h50 le train part",
    "21:50 (UTC) car",
    "sec 1310",
    "P0DT0H21M50S",
    "It comes around the twenty-one minute mark.",
    "{31250}{31300}Bye",
    "[1310.00 --> 1322.00] car",
    "1310.00\t1322.00\tcar\n1330.00\t1340.00\tdog",
    "1310,1322,car\n1330,1340,dog",
    "<t>1310</t> car",
    '{"21:50": "car", "22:02": "dog"}',
    '[[1310, 1322, "car"], [1320, 1325, "dog"]]',
    '{"events": [["car", 1310, 1322]]}',
    '{"in": 1310, "out": 1322}',
    '{"clip": [1310, 1322]}',
    '{"開始": 1310}',
    '{"moment": 1310}',
]


@pytest.mark.parametrize("answer", DOUBTFUL)
def test_what_may_be_a_moment_or_not_leaves_the_row_out_even_if_the_prompt_says_its_part(answer: str) -> None:
    for prompt in ("List what happens.", "What happens at 21:50?"):
        with pytest.raises(CannotSplit, match="“"):
            cut(answer, prompt)


PROMPTS = [
    "It was recorded on 2024-05-01 at 20:15.",
    "This is the match of 1 May 2024, 20:15.",
    "Timestamps: use MM:SS (01:05), not seconds (65).",
    'Example output: {"events": [{"timestamp": "00:05", "event": "dog"}]}',
    "List events. Each lasts 5 to 10 seconds.",
    "Give timestamps in the format 00:00 - 00:00.",
    "Timestamps as HH:MM:SS (e.g., 00:01:05).",
    "Describe the first 30 seconds.",
    "Split it into 10 second clips.",
    "The video is 25:00 long; no event is longer than 0:30.",
    "Sample at 1 frame per second. This video lasts 25 minutes.",
    "Rate each event from 1 to 10.",
    "Format:\n[00:05 - 00:12] text\n[00:15] text\n\nList the events.",
    "Example:\n0:05 dog\n0:09 cat",
    "Output as `00:05 dog`.",
    'Return e.g. [{"start": 5.0, "end": 12.0}].',
    "Timestamps start at 00:00.",
    "```\n00:05 dog\n```\nUse this format.",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_form_a_length_or_a_beginning_in_a_prompt_is_no_moment(prompt: str) -> None:
    assert cut("[21:50 - 22:02] car", prompt) == {2: (prompt, "[03:03 - 03:15] car")}


def test_a_moment_in_a_prompt_of_its_own_moves_and_in_a_shared_one_stays() -> None:
    assert cut("[21:50] car", "What comes at 21:50?") == {2: ("What comes at 03:03?", "[03:03] car")}
    assert cut("[21:50] car", "What comes after 00:10?", shared=True) == {2: ("What comes after 00:10?", "[03:03] car")}
    with pytest.raises(CannotSplit, match="neither the prompt nor the answer"):
        cut("A car.", "What comes at 21:50?", shared=True)


FORMS = {
    "clock": "[{m:02d}:{s:02d}] {word}",
    "clock of hours": "- {h:02d}:{q:02d}:{s:02d}: {word}",
    "clock with a fraction": "{m:02d}:{s:02d}.{f:03d} {word}",
    "seconds": "{t}.{f:03d}s: {word}",
    "minutes and seconds": "{m}m{s}s {word}",
    "ISO": '{{"start": "PT{m}M{s}S", "text": "{word}"}}',
    "numbers": '{{"start_ms": {ms}, "score": "{m:02d}:{s:02d}", "n": {t}, "text": "{word}"}}',
    "proto": '{{"start": {{"seconds": {t}, "nanos": {n}}}, "text": "{word}"}}',
    "h, m, s": '{{"at": {{"h": {h}, "m": {q}, "s": {s}}}, "text": "{word}"}}',
    "table": "| {m:02d}:{s:02d} | {word} |",
    "CSV": '{t}.{f:03d},"{word}"',
    "SRT": "{i}\n{h:02d}:{q:02d}:{s:02d},{f:03d} --> {h:02d}:{q:02d}:{s:02d},{f:03d}\n{word}\n",
    "WebVTT": "{word}\n{h:02d}:{q:02d}:{s:02d}.{f:03d} --> {h:02d}:{q:02d}:{s:02d}.{f:03d} align:start\n{word}\n",
}
HEADS = {"table": "| Time | Text |\n|---|---|\n", "CSV": "time_s,text\n", "WebVTT": "WEBVTT\n\n"}
FRACTIONS = ("clock with a fraction", "seconds", "numbers", "proto", "CSV", "SRT", "WebVTT")
WORDS = st.sampled_from(
    ["car", "he has 12 dogs", "the 20:15 train", "scale 1/1250 s", "v1.2", "room 1310", "it costs 3,50", "ISO 800"]
)
MOMENTS = st.lists(st.tuples(st.integers(3100, 3599), st.integers(0, 999), WORDS), min_size=1, max_size=6)


def _text(form: str, moments: list[tuple[int, int, str]]) -> str:
    lines = [
        FORMS[form].format(
            h=t // 3600, q=t // 60 % 60, m=t // 60, s=t % 60, t=t, f=f, ms=t * 1000 + f, n=f * 10**6, word=word, i=i + 1
        )
        for i, (t, f, word) in enumerate(moments)
    ]
    return HEADS.get(form, "") + "\n".join(lines)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FORMS)), MOMENTS, st.integers(0, 2_900_000))
def test_every_form_moved_and_moved_back_is_what_it_was_and_nothing_else_of_it_changes(
    form: str, moments: list[tuple[int, int, str]], shift_ms: int
) -> None:
    zero = Fraction(shift_ms, 1000) if form in FRACTIONS else Fraction(shift_ms // 1000)
    text = _text(form, sorted(moments))
    there = TimestampedText(text, Fraction(10_000), TimestampConfig()).share(
        Window(Fraction(0), Fraction(10_000), zero)
    )
    assert there is not None
    earlier = [
        (ms // 1000, ms % 1000, word)
        for t, f, word in sorted(moments)
        if (ms := 1000 * t + (f if form in FRACTIONS else 0) - int(zero * 1000)) >= 0
    ]
    if form != "numbers":  # whose score and n stay as they were
        assert there.text == _text(form, earlier)
    back = TimestampedText(there.text, Fraction(10_000), TimestampConfig()).share(
        Window(Fraction(0), Fraction(10_000), -zero)
    )
    assert back is not None
    assert back.text == text


@pytest.mark.parametrize(
    "text", ["like [" * 20_000, "then at 01:05 a car comes, " * 4_000, "- " * 50_000 + "0:05", '"' * 100_000]
)
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    started = time.process_time()
    with contextlib.suppress(CannotSplit):
        TimestampedText(text, FILM_S, TimestampConfig(), is_prompt=True)
    assert time.process_time() - started < 20
