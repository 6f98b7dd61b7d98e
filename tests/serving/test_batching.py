"""Answers produced side by side are those produced alone, and no request hurts another."""

import threading
from collections.abc import Callable

import pytest
import torch
from structlog.testing import capture_logs

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.errors import FailedPrecondition, Internal, InvalidArgument, KastorError, Unavailable
from kastor.domain.generation import Chunk, FinishReason, Sampling
from support.manual_batcher import ManualBatcher, ReceivedChunks

MakeStepper = Callable[..., ManualBatcher]

PROMPTS = ("one", "the twelve in the on", "x" * 90, "über 😀", "on")
ADAPTERS = ("a", None, "b", "c", None)


def reference(one: ManualBatcher, text: str, adapter: str | None, num_tokens: int) -> list[int]:
    """Greedy tokens by full recomputation, without a cache, one at a time."""
    batcher = one.batcher
    ids = one.renderer.text(text)
    start = len(ids)
    with torch.inference_mode():
        held = None if adapter is None else batcher.adapters.acquire(AdapterRef(adapter))
        while len(ids) < start + num_tokens and ids[-1] not in batcher.end_ids:
            batcher.adapters.assign([held])
            ids.append(int(batcher.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return [token for token in ids[start:] if token not in batcher.end_ids]


def test_answers_of_a_mixed_batch_equal_those_computed_without_a_cache(stepper: MakeStepper) -> None:
    together = stepper()
    heard = [together.ask(text, adapter)[1] for text, adapter in zip(PROMPTS, ADAPTERS, strict=True)]
    together.steps(20)
    alone = stepper()
    for told, text, adapter in zip(heard, PROMPTS, ADAPTERS, strict=True):
        expected = alone.renderer.tokenizer.decode(reference(alone, text, adapter, 12)).rstrip(
            "\N{REPLACEMENT CHARACTER}"
        )
        assert told.text == expected
        assert told.finish in (FinishReason.MAX_TOKENS, FinishReason.STOP)


def test_rows_that_join_and_leave_at_any_step_do_not_disturb_the_others(stepper: MakeStepper) -> None:
    alone = [
        stepper().answer(text, adapter, max_output_tokens=20).text
        for text, adapter in zip(PROMPTS, ADAPTERS, strict=True)
    ]
    moving = stepper()
    heard = []
    for step, (text, adapter) in enumerate(zip(PROMPTS, ADAPTERS, strict=True)):
        leaving, _ = moving.ask("goes away", "d", max_output_tokens=30)
        heard.append(moving.ask(text, adapter, max_output_tokens=20)[1])
        moving.steps(1 + step % 3)
        leaving.cancel()
    moving.steps(30)
    assert [told.text for told in heard] == alone


def test_a_long_prompt_taken_in_pieces_answers_as_in_one(stepper: MakeStepper, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = stepper().answer("a long prompt " * 15, "b").text
    monkeypatch.setattr("kastor.serving.builtin.continuous_batching.CHUNK_TOKENS", 32)
    pieces = stepper()
    _, short = pieces.ask("short", "a", max_output_tokens=8)
    pieces.steps(2)
    _, told = pieces.ask("a long prompt " * 15, "b")
    _, later = pieces.ask("later")
    pieces.steps(7)
    assert short.finish  # the long prompt did not hold it up, and it left while the other was half taken in
    pieces.steps(20)
    assert told.text == whole
    assert later.finish


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(stepper: MakeStepper) -> None:
    wanted = {"temperature": 1.2, "top_p": 0.95, "top_k": 50, "seed": 7, "max_output_tokens": 24}
    alone = stepper().answer("one", "a", **wanted).text
    crowd = stepper()
    crowd.ask("another", "b", temperature=1.0, seed=7, max_output_tokens=40)
    crowd.steps(3)
    _, told = crowd.ask("one", "a", **wanted)
    _, other = crowd.ask("one", "a", **{**wanted, "seed": 8})
    crowd.steps(30)
    assert told.text == alone
    assert other.text != alone


def test_a_stop_sequence_ends_the_answer_and_is_not_in_it(stepper: MakeStepper) -> None:
    free = stepper().answer("one", "a", max_output_tokens=12)
    stop = free.text[3:6]
    told = stepper().answer("one", "a", stop_sequences=(stop,), max_output_tokens=12)
    assert told.text == free.text[: free.text.index(stop)]
    assert told.finish is FinishReason.STOP
    assert told.chunks[-1].output_tokens < free.chunks[-1].output_tokens


def test_counts_are_totals_so_far_and_only_the_last_chunk_finishes(stepper: MakeStepper) -> None:
    told = stepper().answer("one two", max_output_tokens=9)
    counts = [chunk.output_tokens for chunk in told.chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 9
    assert {chunk.prompt_tokens for chunk in told.chunks} == {len(stepper().renderer.text("one two"))}
    assert [chunk.finish_reason for chunk in told.chunks[:-1]] == [None] * (len(counts) - 1)
    assert told.finish is FinishReason.MAX_TOKENS


def test_a_presence_penalty_keeps_an_answer_from_repeating_itself(stepper: MakeStepper) -> None:
    def repeats(told: ReceivedChunks) -> int:
        ids = [step.chosen.token_id for chunk in told.chunks for step in chunk.steps]
        return len(ids) - len(set(ids))

    asked = {"max_output_tokens": 40, "top_logprobs": 0}
    free = stepper().answer("one", "a", **asked)
    held = stepper().answer("one", "a", presence_penalty=1.99, frequency_penalty=1.99, **asked)
    spurred = stepper().answer("one", "a", presence_penalty=-2.0, frequency_penalty=-2.0, **asked)
    assert repeats(held) < repeats(free) < repeats(spurred)


def test_logprobs_are_told_of_every_token_once(stepper: MakeStepper) -> None:
    one = stepper()
    told = one.answer("über", "a", max_output_tokens=30, top_logprobs=3, temperature=1.5, seed=2)
    steps = [step for chunk in told.chunks for step in chunk.steps]
    assert len(steps) == told.chunks[-1].output_tokens
    tokens = [step.chosen.token_id for step in steps]
    ids = one.renderer.text("über")
    with torch.inference_mode():
        held = one.batcher.adapters.acquire(AdapterRef("a"))
        one.batcher.adapters.assign([held])
        logits = one.batcher.model(input_ids=torch.tensor([[*ids, *tokens]])).logits[0, len(ids) - 1 : -1]
    expected = torch.log_softmax(logits, dim=-1)
    for step, token, row in zip(steps, tokens, expected, strict=True):
        assert abs(step.chosen.logprob - float(row[token])) < 1e-3
        assert [one.token_id for one in step.top] == row.topk(3).indices.tolist()
        assert step.chosen.text == one.renderer.tokenizer.decode([token], skip_special_tokens=False)


def test_who_does_not_ask_for_logprobs_gets_none(stepper: MakeStepper) -> None:
    told = stepper().answer("one", "a")
    assert all(chunk.steps == () for chunk in told.chunks)


def test_an_answer_ends_with_the_end_of_turn_token(stepper: MakeStepper) -> None:
    one = stepper()
    first = reference(one, "one", "a", 1)[0]
    one.batcher.end_ids = frozenset({first})
    told = one.answer("one", "a")
    assert told.chunks == [Chunk("", 2, 0, FinishReason.STOP)]


def test_an_answer_ends_where_the_context_does(stepper: MakeStepper) -> None:
    told = stepper(context_tokens=40, max_prompt_tokens=400).answer("a" * 30, max_output_tokens=64)
    assert told.chunks[-1].output_tokens == 10
    assert told.finish is FinishReason.MAX_TOKENS


def test_a_prompt_longer_than_the_context_is_refused_with_count_and_limit(stepper: MakeStepper) -> None:
    with pytest.raises(InvalidArgument, match=r"input token count \(401\) exceeds .* allowed \(400\)"):
        stepper().ask("a" * 401)


def test_more_output_than_the_base_gives_is_refused(stepper: MakeStepper) -> None:
    with pytest.raises(InvalidArgument, match="max_output_tokens: 65 is out of range; .* from 1 to 64"):
        stepper().ask("a", max_output_tokens=65)


def test_an_adapter_that_cannot_be_loaded_fails_its_own_request_only(stepper: MakeStepper) -> None:
    mixed = stepper()
    _, good = mixed.ask("one", "a")
    _, bad = mixed.ask("one", "missing")
    _, base = mixed.ask("one")
    mixed.steps(15)
    assert isinstance(bad.events[-1], FailedPrecondition)
    assert good.text == stepper().answer("one", "a").text
    assert base.finish


def test_a_prompt_that_breaks_the_model_fails_alone(stepper: MakeStepper) -> None:
    mixed = stepper()
    heard = [mixed.ask("one")[1], mixed.ask("two")[1]]
    bad = ReceivedChunks()
    mixed.batcher.submit([5, 10_000_000], Sampling(temperature=0, max_output_tokens=5), "b", bad)
    with capture_logs() as logged:
        mixed.steps(15)
    assert "exc_info" in logged[0]
    assert isinstance(bad.events[-1], Internal)
    assert [told.text for told in heard] == [stepper().answer(text).text for text in ("one", "two")]
    assert [adapter.users for adapter in mixed.batcher.adapters.resident.values()] == [0]


def test_a_consumer_that_raises_is_dropped(stepper: MakeStepper) -> None:
    mixed = stepper()
    calls: list[Chunk | KastorError] = []

    def deaf(event: Chunk | KastorError) -> None:
        calls.append(event)
        raise RuntimeError("gone")

    greedy = Sampling(temperature=0, max_output_tokens=50)
    mixed.batcher.submit(mixed.renderer.text("one"), greedy, None, deaf)
    _, told = mixed.ask("two", max_output_tokens=50)
    while not calls:  # a token may complete no character
        mixed.steps(1)
    mixed.steps(1)
    assert len(mixed.batcher._rows) == 1
    mixed.steps(50)
    assert told.finish
    assert len(calls) == 1


def test_no_more_rows_than_allowed_and_first_come_first_served(stepper: MakeStepper) -> None:
    few = stepper(max_rows=2)
    handles = [few.ask("one", max_output_tokens=n)[0] for n in (4, 9, 4, 4)]
    begun: list[int] = []
    for _ in range(20):
        few.steps(1)
        assert len(few.batcher._rows) <= 2
        begun += [i for row in few.batcher._rows if (i := handles.index(row.handle)) not in begun]
    assert begun == [0, 1, 2, 3]


def test_rows_wait_for_cache_memory_and_for_adapters(stepper: MakeStepper) -> None:
    tight = stepper(max_cache_tokens=40, max_resident=1)
    heard = [tight.ask("one", max_output_tokens=12)[1] for _ in range(3)]
    tight.steps(2)
    assert len(tight.batcher._rows) == 2  # 2 x (2 + 12) fit into 40, 3 do not
    tight.steps(30)
    heard += [tight.ask("one", name)[1] for name in ("a", "b")]
    tight.steps(2)
    assert [row.handle.adapter for row in tight.batcher._rows] == [AdapterRef("a")]
    tight.steps(30)
    assert all(told.finish for told in heard)


def test_the_thread_serves_until_it_is_closed_and_then_tells_who_waits(stepper: MakeStepper) -> None:
    one = stepper(max_rows=1)
    thread = threading.Thread(target=one.batcher.run)
    thread.start()
    arrived = threading.Event()

    def sink(event: Chunk | KastorError) -> None:
        if isinstance(event, Chunk) and event.finish_reason:
            arrived.set()

    one.batcher.submit(one.renderer.text("one"), Sampling(max_output_tokens=3), "a", sink)
    assert arrived.wait(10)
    heard = [one.ask("one", max_output_tokens=64)[1] for _ in range(50)]
    one.batcher.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(heard[-1].events[-1], Unavailable)
    with pytest.raises(Unavailable):
        one.ask("one")
