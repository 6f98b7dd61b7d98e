"""Every row gets one verdict, the ledger sums, and every refusal says what is wrong and where."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.media.inspection_result import InspectedMedium, InspectionResult
from kastor.dataset.validation.ledger import Ledger, refusals, validation_refusals
from kastor.dataset.validation.rules import text_violations
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator, RowOutcome, RowVerdict
from kastor.domain.content import Content, Example, FunctionCall, Media, Part, Resolution, Role, SupervisedTurns, Text
from kastor.domain.dataset_limits import DATASET_PROFILES, OPEN_DATASET, DatasetLimits, dataset_limits
from kastor.domain.errors import InvalidArgument
from kastor.domain.media import MediaFault, MediaKind, Probe, SamplingPlan
from kastor.domain.request_limits import GEMINI_API, OPEN
from kastor.domain.vision import MediaLayouts, TokenCount
from kastor.media.cache import CachedFile
from kastor.models.chat.families import NANO_VL

VERTEX = DATASET_PROFILES["vertex-gemini-2.5"]
STRICT = DATASET_PROFILES["gemini-api"]
IMAGE = Media("image/png", "cat.png")
FILM = Media("video/mp4", "film.mp4")
PAPER = Media("application/pdf", "a.pdf")


class CountsWords:
    """A token for each word and for each picture."""

    def counts(self, examples: Sequence[Example], views: Sequence[MediaLayouts]) -> list[TokenCount]:
        return [
            TokenCount(
                sum(len(c.text.split()) for c in example.contents) + sum(v.num_pictures for v in seen.values()), 1
            )
            for example, seen in zip(examples, views, strict=True)
        ]


def seen(
    kind: MediaKind, num_bytes: int = 1000, duration_s: float | None = None, pages: int | None = None
) -> InspectedMedium:
    probe = Probe(kind, "box", num_bytes, duration_s=duration_s, num_pages=pages)
    plan = None
    if duration_s is not None:
        moments = tuple(float(second) for second in range(int(duration_s)))
        plan = SamplingPlan(moments, tuple(map(int, moments)), Fraction(1), 0, duration_s)
    return InspectedMedium(CachedFile(Path("x"), "ab", num_bytes), probe, plan)


def looking_at(**files: InspectionResult) -> object:
    def look(media: Iterable[Media]) -> dict[Media, InspectionResult]:
        return {one: files[one.uri.partition(".")[0]] for one in media}

    return look


def gate(
    limits: DatasetLimits = VERTEX, max_tokens: int = 1000, sees: bool = True, **files: InspectionResult
) -> DatasetValidator:
    base = BaseModelLimits("models/b", max_tokens, NANO_VL.vision if sees else None, CountsWords())
    return DatasetValidator(limits, base, looking_at(**files))  # type: ignore[arg-type]


def row(*parts: Part, line: int = 1, **fields: object) -> ParsedRow:
    turns = (Content(Role.USER, (*parts, Text("what is it"))), Content(Role.MODEL, (Text("a cat"),)))
    return ParsedRow(line, replace(Example(turns), **fields))  # type: ignore[arg-type]


def only(verdicts: Iterable[RowVerdict]) -> RowVerdict:
    (verdict,) = verdicts
    return verdict


outputs = st.sampled_from(["fine", "", "x" * 5_001])
inputs = st.sampled_from(["fine", "", "x" * 40_001, "a b c d e"])
pairs = st.builds(lambda line, a, b: ParsedRow(line, Example.pair(a, b)), st.integers(1, 9), inputs, outputs)
issues = st.builds(lambda line: Issue(line, "", "not_json", "bad"), st.integers(1, 9))


@given(st.lists(pairs | issues, max_size=30))
def test_the_ledger_always_sums(rows: list[ParsedRow | Issue]) -> None:
    ledger = Ledger()
    verdicts = list(gate(STRICT, max_tokens=4).verdicts(rows))
    for verdict in verdicts:
        ledger.add(verdict)
    assert [verdict.line for verdict in verdicts] == [given_row.line for given_row in rows]
    assert ledger.num_rows == len(rows) == ledger.num_accepted + ledger.num_dropped + ledger.num_rejected
    assert ledger.rejected_by_rule.total() == ledger.num_rejected
    assert ledger.dropped_by_rule.total() == ledger.num_dropped
    assert all(bool(verdict.issues) is (verdict.outcome is not RowOutcome.ACCEPTED) for verdict in verdicts)


def test_texts_over_the_limit_are_refused_with_both_numbers() -> None:
    faults = list(text_violations(Example.pair("a" * 40_001, "b" * 5_001), GEMINI_API))
    assert [(fault.path, fault.message) for fault in faults] == [
        ("input", "40,001 characters, at most 40,000 are allowed"),
        ("output", "5,001 characters, at most 5,000 are allowed"),
    ]
    assert not list(text_violations(Example.pair("a" * 40_000, "b" * 5_000), GEMINI_API))


def test_the_open_profile_lifts_the_lengths_but_not_emptiness() -> None:
    faults = list(text_violations(Example.pair("a" * 99_999, ""), OPEN))
    assert [fault.rule for fault in faults] == ["empty_output"]


def test_a_row_too_long_for_the_base_is_dropped_with_both_token_counts() -> None:
    verdict = only(gate(max_tokens=3).verdicts([ParsedRow(7, Example.pair("a b c", "d"))]))
    assert verdict.outcome is RowOutcome.DROPPED
    assert str(verdict.issues[0]) == "line 7: 4 tokens, at most 3 fit models/b (shorten it or leave it out)"


@pytest.mark.parametrize(
    ("example_row", "files", "outcome", "rule"),
    [
        (row(IMAGE), {"cat": seen(MediaKind.IMAGE)}, RowOutcome.ACCEPTED, ""),
        (row(IMAGE), {"cat": seen(MediaKind.IMAGE, 20_000_001)}, RowOutcome.DROPPED, "image_too_large"),
        (row(IMAGE), {"cat": MediaFault("media_unreadable", "broken")}, RowOutcome.DROPPED, "media_unreadable"),
        (row(IMAGE), {"cat": seen(MediaKind.VIDEO, duration_s=3)}, RowOutcome.DROPPED, "mime_type_wrong"),
        (row(replace(IMAGE, fps=2.0)), {"cat": seen(MediaKind.IMAGE)}, RowOutcome.REJECTED, "segment_of_image"),
        (row(*[IMAGE] * 31), {"cat": seen(MediaKind.IMAGE)}, RowOutcome.DROPPED, "too_many_images"),
        (row(FILM), {"film": seen(MediaKind.VIDEO, duration_s=300)}, RowOutcome.ACCEPTED, ""),
        (row(FILM), {"film": seen(MediaKind.VIDEO, 100_000_001, duration_s=9)}, RowOutcome.DROPPED, "video_too_large"),
        (
            row(replace(FILM, resolution=Resolution.MEDIUM)),
            {"film": seen(MediaKind.VIDEO, duration_s=301)},
            RowOutcome.DROPPED,
            "video_too_long",
        ),
        (
            row(replace(FILM, resolution=Resolution.MEDIUM, start_s=10.0, end_s=309.0)),
            {"film": seen(MediaKind.VIDEO, duration_s=900)},
            RowOutcome.ACCEPTED,
            "",
        ),
        (row(FILM), {"film": seen(MediaKind.VIDEO, duration_s=1201)}, RowOutcome.DROPPED, "video_too_long"),
        (row(FILM, FILM), {"film": seen(MediaKind.VIDEO, duration_s=3)}, RowOutcome.DROPPED, "too_many_videos"),
        (
            row(Media("application/pdf", "a.pdf")),
            {"a": seen(MediaKind.PDF, pages=301)},
            RowOutcome.DROPPED,
            "too_many_pages",
        ),
        (row(Media("audio/mpeg", "a.mp3")), {}, RowOutcome.REJECTED, "audio_unsupported"),
        (row(Media("text/plain", "a.txt")), {}, RowOutcome.REJECTED, "mime_type"),
        (row(FunctionCall("f", "{}")), {}, RowOutcome.REJECTED, "functions_unsupported"),
        (row(tools="[{}]"), {}, RowOutcome.REJECTED, "functions_unsupported"),
    ],
)
def test_each_rule_for_media_has_its_outcome_and_name(
    example_row: ParsedRow, files: dict[str, InspectionResult], outcome: RowOutcome, rule: str
) -> None:
    verdict = only(gate(max_tokens=10_000, **files).verdicts([example_row]))
    assert (verdict.outcome, verdict.issues[0].rule if verdict.issues else "") == (outcome, rule)


def test_media_in_the_answer_are_rejected_with_their_path() -> None:
    turns = (Content(Role.USER, (Text("draw"),)), Content(Role.MODEL, (Text("here"), IMAGE)))
    verdict = only(gate().verdicts([ParsedRow(3, Example(turns))]))
    assert str(verdict.issues[0]).startswith("line 3, contents[1].parts[1]: media in a model turn")


def test_a_base_that_reads_text_only_is_named() -> None:
    verdict = only(gate(sees=False).verdicts([row(IMAGE)]))
    assert "models/b reads text only" in str(verdict.issues[0])


def test_the_plan_has_every_frame_with_its_moment_and_the_tokens_of_all() -> None:
    verdict = only(
        gate(cat=seen(MediaKind.IMAGE), film=seen(MediaKind.VIDEO, duration_s=3)).verdicts([row(IMAGE, FILM)])
    )
    assert verdict.plan is not None and verdict.plan.tokens == TokenCount(5 + 1 + 3, 1)
    assert verdict.plan.views[FILM].moments_s == (0.0, 1.0, 2.0)


def test_one_resolution_is_asked_of_all_lines_where_the_profile_does() -> None:
    low, high = (row(IMAGE, line=n, resolution=r) for n, r in ((1, Resolution.LOW), (2, Resolution.MEDIUM)))
    files = {"cat": seen(MediaKind.IMAGE)}
    first, second = gate(**files).verdicts([low, high])
    assert first.outcome is RowOutcome.ACCEPTED
    assert str(second.issues[0]) == (
        "line 2, generationConfig.mediaResolution: MEDIUM, while line 1 has LOW; it must be the same on every line"
    )
    assert {v.outcome for v in gate(OPEN_DATASET, **files).verdicts([low, high])} == {RowOutcome.ACCEPTED}


def ledger_of(accepted: int, dropped: int, rejected: int = 0) -> Ledger:
    ledger = Ledger()
    fault = (Issue(1, "", "video_too_long", "too long"),)
    for outcome, number in (
        (RowOutcome.ACCEPTED, accepted),
        (RowOutcome.DROPPED, dropped),
        (RowOutcome.REJECTED, rejected),
    ):
        for _ in range(number):
            ledger.add(RowVerdict(1, outcome, () if outcome is RowOutcome.ACCEPTED else fault))
    return ledger


def test_more_than_a_tenth_dropped_is_refused_with_reasons_and_counts() -> None:
    assert refusals(ledger_of(90, 10), VERTEX, num_bytes=1, has_media=True) == []
    (said,) = refusals(ledger_of(89, 11), VERTEX, num_bytes=1, has_media=True)
    assert said.startswith("11 of 100 examples (11.0%) would be dropped, more than 10%: 11 video_too_long.")


def test_rejected_rows_an_empty_file_and_a_large_one_are_refused() -> None:
    assert refusals(ledger_of(0, 0), VERTEX, num_bytes=0, has_media=False) == ["There are no examples in this file."]
    (said,) = refusals(ledger_of(1, 0, 2), VERTEX, num_bytes=1, has_media=False)
    assert said == "2 of 3 rows are faulty: 2 video_too_long."
    (said,) = refusals(ledger_of(1, 0), VERTEX, num_bytes=10**9 + 1, has_media=False)
    assert "1,000,000,001 bytes" in said


@pytest.mark.parametrize(("validation", "training", "fine"), [(256, 10, True), (5_000, 100, True), (5_001, 100, False)])
def test_a_validation_set_has_a_largest_size(validation: int, training: int, fine: bool) -> None:
    assert (validation_refusals(validation, training, VERTEX) == []) is fine


def test_an_operator_may_raise_a_limit_by_name() -> None:
    assert dataset_limits("vertex-gemini-2.5", {"max_images": 50}).max_images == 50
    with pytest.raises(InvalidArgument, match="no limit max_cats; known are"):
        dataset_limits("open", {"max_cats": 1})
    with pytest.raises(InvalidArgument, match="no profile 'vertex'; known are open"):
        dataset_limits("vertex")


def conversation(*turns: tuple[str, int]) -> ParsedRow:
    contents = [
        content
        for text, weight in turns
        for content in (Content(Role.USER, (Text("a"),)), Content(Role.MODEL, (Text(text),), weight))
    ]
    return ParsedRow(1, Example(tuple(contents)))


def judged(row: ParsedRow, supervise: SupervisedTurns = SupervisedTurns.ALL) -> RowVerdict:
    base = BaseModelLimits("models/b", 1000, None, None, supervise=supervise)
    return only(DatasetValidator(OPEN_DATASET, base, lambda media: {}).verdicts([row]))


@pytest.mark.parametrize("at", [0, 1, 2])
def test_an_empty_answer_that_is_learnt_is_refused_wherever_it_stands(at: int) -> None:
    turns = [("yes", 1)] * 3
    turns[at] = ("", 1)
    verdict = judged(conversation(*turns))
    assert verdict.outcome is RowOutcome.REJECTED
    assert [(issue.rule, issue.path) for issue in verdict.issues] == [
        ("empty_output", "output" if at == 2 else f"contents[{2 * at + 1}]")
    ]


def test_an_empty_answer_that_is_given_is_not_looked_at() -> None:
    assert judged(conversation(("", 1), ("yes", 1)), SupervisedTurns.LAST).outcome is RowOutcome.ACCEPTED
    assert judged(conversation(("", 0), ("yes", 1))).outcome is RowOutcome.ACCEPTED


@pytest.mark.parametrize("blank", [" ", "\n\n", "\u2003\t"])
def test_an_answer_of_blanks_is_kept_and_noted(blank: str) -> None:
    for row, paths in (
        (conversation((blank, 1), ("yes", 1)), "contents[1]"),
        (conversation((blank, 1)), "output"),
        (conversation((blank, 1), (blank, 1)), "contents[1], output"),
    ):
        verdict = judged(row)
        assert verdict.outcome is RowOutcome.ACCEPTED
        assert [(note.rule, note.path) for note in verdict.issues] == [("blank_output", paths)]
    assert judged(conversation((blank, 0), ("yes", 1))).issues == ()


@pytest.mark.parametrize(
    ("turns", "supervise"), [([("a", 0)], SupervisedTurns.ALL), ([("a", 1), ("b", 0)], SupervisedTurns.LAST)]
)
def test_a_row_in_which_nothing_is_learnt_is_refused(turns: list[tuple[str, int]], supervise: SupervisedTurns) -> None:
    verdict = judged(conversation(*turns), supervise)
    assert [issue.rule for issue in verdict.issues] == ["nothing_learnt"]
