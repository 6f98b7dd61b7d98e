"""Several answers to one prompt: taken in once, each with its own draws, told apart by their index."""

from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import Internal, InvalidArgument
from kastor.domain.generation import FinishReason, Sampling
from support.manual_batcher import ManualBatcher, ReceivedChunks

MakeStepper = Callable[..., ManualBatcher]
WARM = {"temperature": 1.3, "seed": 5, "max_output_tokens": 14}


def shapes_passed(one: ManualBatcher) -> list[tuple[int, ...]]:
    """The shapes of what goes through the model from now on: rows, tokens."""
    passed: list[tuple[int, ...]] = []
    one.batcher.model.get_decoder().register_forward_pre_hook(
        lambda _, __, inputs: passed.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )
    return passed


def test_candidates_are_told_apart_and_each_comes_to_its_end(stepper: MakeStepper) -> None:
    told = stepper().answer("one two", "a", 4, **WARM)
    assert len(set(told.texts)) == 4
    assert told.num_ended == 4
    for index in range(4):
        own = [chunk for chunk in told.chunks if chunk.index == index]
        assert [chunk.finish_reason is not None for chunk in own] == [False] * (len(own) - 1) + [True]
        assert own[-1].output_tokens == 14 or own[-1].finish_reason is FinishReason.STOP
        assert {chunk.prompt_tokens for chunk in own} == {len(stepper().renderer.text("one two"))}


def test_the_first_candidate_is_the_only_one_of_a_request_for_one(stepper: MakeStepper) -> None:
    assert stepper().answer("one", "a", 3, **WARM).texts[0] == stepper().answer("one", "a", **WARM).text


def test_a_seed_decides_all_candidates_alone_and_in_a_crowd(stepper: MakeStepper) -> None:
    alone = stepper().answer("one", "b", 3, **WARM).texts
    crowd = stepper()
    crowd.ask("another one", "a", max_output_tokens=40)
    crowd.steps(2)
    leaving, _ = crowd.ask("leaves", None, 2, **WARM)
    _, told = crowd.ask("one", "b", 3, **WARM)
    crowd.steps(3)
    leaving.cancel()
    crowd.steps(40)
    assert told.texts == alone


def test_without_draws_all_candidates_are_the_same(stepper: MakeStepper) -> None:
    told = stepper().answer("the twelve", "a", 3)
    assert told.texts == [stepper().answer("the twelve", "a").text] * 3


def test_a_prompt_goes_through_the_model_once_however_many_candidates(stepper: MakeStepper) -> None:
    one = stepper()
    passed = shapes_passed(one)
    one.answer("x" * 90, None, 4, **WARM)
    assert passed[0] == (1, 90)
    assert set(passed[1:]) <= {(rows, 1) for rows in (1, 2, 3, 4)}
    assert passed[1] == (4, 1)


def test_a_long_prompt_taken_in_pieces_has_candidates_too(
    stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stepper().answer("a long prompt " * 12, "b", 3, **WARM).texts
    monkeypatch.setattr("kastor.serving.builtin.continuous_batching.CHUNK_TOKENS", 32)
    pieces = stepper()
    _, short = pieces.ask("short", max_output_tokens=4)
    pieces.steps(1)
    _, told = pieces.ask("a long prompt " * 12, "b", 3, **WARM)
    pieces.steps(50)
    assert short.finish
    assert told.texts == whole


def test_cancelling_a_request_ends_all_its_candidates(stepper: MakeStepper) -> None:
    one = stepper()
    handle, _ = one.ask("one", "a", 4, max_output_tokens=60)
    _, other = one.ask("two", "b")
    one.steps(3)
    handle.cancel()
    one.steps(1)
    assert [row.handle.adapter for row in one.batcher._rows] == [AdapterRef("b")]
    assert one.batcher.adapters.resident[AdapterRef("a")].users == 0
    one.steps(20)
    assert other.text == stepper().answer("two", "b").text


def test_a_failure_is_told_once_for_all_candidates(stepper: MakeStepper) -> None:
    one = stepper()
    bad = ReceivedChunks()
    one.batcher.submit([5, 10_000_000], Sampling(temperature=0), "a", bad, num_candidates=3)
    _, good = one.ask("two")
    with capture_logs():
        one.steps(20)
    assert [type(event) for event in bad.events] == [Internal]
    assert good.text == stepper().answer("two").text


def test_requests_with_candidates_never_make_more_rows_than_allowed(stepper: MakeStepper) -> None:
    few = stepper(max_rows=4)
    passed = shapes_passed(few)
    heard = [few.ask("the twelve", "a", n, **WARM)[1] for n in (3, 1, 3, 4)]
    few.steps(100)
    assert max(rows for rows, _ in passed) == 4
    assert [told.num_ended for told in heard] == [3, 1, 3, 4]


@pytest.mark.parametrize(
    ("bounds", "said"),
    [({"max_rows": 2}, "3; at most 2 are made side by side"), ({"max_cache_tokens": 40}, "do not fit into memory")],
)
def test_more_candidates_than_there_is_room_for_are_refused(
    stepper: MakeStepper, bounds: dict[str, int], said: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        stepper(**bounds).ask("one", None, 3, **WARM)
    assert refused.value.violations[0].field == "num_candidates"
    assert said in refused.value.message
