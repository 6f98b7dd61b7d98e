"""Scores of given tokens: beside answers, by base, adapter and checkpoint, and the same through a socket."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Example
from kastor.domain.errors import InvalidArgument, KastorError, NotFound, Unavailable
from kastor.domain.generation import GenerateRequest, Sampling
from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.load import load_base
from kastor.serving.builtin.kv_cache import CHUNK_TOKENS
from kastor.serving.builtin.parity import ServedAdapter
from kastor.serving.builtin.scoring import ScoreHandle
from kastor.serving.engine import ScoreRequest
from kastor.serving.process_engine import ProcessEngine
from kastor.serving.score_comparison import EXACT, GoldenExample, ServedModel, check_logprobs, compare_scores
from kastor.settings import Settings, environment
from support.manual_batcher import ManualBatcher
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_adapter

TEXTS = [("one", "two"), ("twelve", "thirteen and more"), ("a longer question " * 12, "a longer answer " * 9)]
Scores = list[torch.Tensor]


@pytest.fixture(scope="module")
def examples(base_folder: Path) -> list[RenderedExample]:
    renderer = Renderer.open(base_folder, SMOLLM2)
    return [renderer.example(Example.pair(*pair)) for pair in TEXTS]


@pytest.fixture(scope="module")
def in_process(base_folder: Path, adapters_root: Path) -> ServedAdapter:
    model = load_base(base_folder, dtype=torch.float32)
    return ServedAdapter.open(model, Renderer.open(base_folder, SMOLLM2), adapters_root / "a")


@pytest.fixture(scope="module")
def engine(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessEngine]:
    """Serves adapter `a` as what `job1` published and adapter `b` as its checkpoint of step 5."""
    root = tmp_path_factory.mktemp("scoring")
    job = root / "data" / "jobs" / "job1"
    tiny_adapter(job / "adapter", seed=1, rank=4)
    tiny_adapter(job / "checkpoints" / "step-000005", seed=2, rank=8, alpha=4)
    catalog = tiny_catalog(root / "catalog.toml", {"tiny": base_folder}, input_token_limit=400, output_token_limit=100)
    settings = Settings(
        data_dir=root / "data",
        cache_dir=root / "cache",
        catalog_file=catalog,
        num_threads=1,
        base_dtype="float32",
    )
    engine = ProcessEngine(environment(settings), log_dir=settings.data_dir, idle_timeout_s=60)
    yield engine
    engine.close()


class Scored:
    """What one consumer of scores was told."""

    def __init__(self) -> None:
        self.outcomes: list[Scores | KastorError] = []

    def __call__(self, outcome: Scores | KastorError) -> None:
        self.outcomes.append(outcome)


def asked(examples: list[RenderedExample], adapter: str | None) -> tuple[ScoreHandle, Scored]:
    scored = Scored()
    return ScoreHandle(examples, lambda _: (), None if adapter is None else AdapterRef(adapter), scored), scored


def test_a_process_scores_as_the_engine_in_this_process_does(
    engine: ProcessEngine, in_process: ServedAdapter, examples: list[RenderedExample]
) -> None:
    expected = in_process.logprobs(examples)
    scores = engine.score(ScoreRequest("tiny", tuple(examples), AdapterRef("job1")))
    for found, one in zip(scores, expected, strict=True):
        torch.testing.assert_close(torch.tensor(found), one, atol=1e-4, rtol=1e-4)
    plain = engine.score(ScoreRequest("tiny", tuple(examples)))
    for found, one in zip(plain, in_process.logprobs(examples, adapted=False), strict=True):
        torch.testing.assert_close(torch.tensor(found), one, atol=1e-4, rtol=1e-4)


def test_a_process_is_proven_through_the_same_comparison_and_another_checkpoint_fails_it(
    engine: ProcessEngine, in_process: ServedAdapter, examples: list[RenderedExample]
) -> None:
    golden = [
        GoldenExample(i, e, s) for i, (e, s) in enumerate(zip(examples, in_process.logprobs(examples), strict=True))
    ]
    compared = compare_scores(ServedModel(engine, "tiny", AdapterRef("job1")), golden, EXACT)
    assert compared.largest < 1e-4 and compared.effect > 0.1
    with pytest.raises(KastorError, match="log-probabilities differ by up to"):
        compare_scores(ServedModel(engine, "tiny", AdapterRef("job1", 5)), golden, EXACT)
    by_checkpoint = ServedModel(engine, "tiny", AdapterRef("job1", 5)).scores(examples)
    assert all(bool(scores.isfinite().all()) for scores in by_checkpoint)


def test_generated_tokens_score_what_they_were_generated_with(engine: ProcessEngine, base_folder: Path) -> None:
    example = Example.pair("one", "")
    prompt = Renderer.open(base_folder, SMOLLM2).prompt(example.prompt)
    request = GenerateRequest(
        "tiny", example.prompt, Sampling(temperature=0, max_output_tokens=8, top_logprobs=0), AdapterRef("job1", 5)
    )
    steps = [step.chosen for chunk in engine.generate(request) for step in chunk.steps]
    ids = [step.token_id for step in steps]
    sequence = RenderedExample([*prompt, *ids], [False] * len(prompt) + [True] * len(ids))
    (scores,) = engine.score(ScoreRequest("tiny", (sequence,), AdapterRef("job1", 5)))
    assert scores == pytest.approx([step.logprob for step in steps], abs=1e-3)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (RenderedExample([1, 10_000_000], [False, True]), "10000000 is no token of this base; use 0 to"),
        (RenderedExample([], []), r"sequences\[0\]: 0 tokens; use 1 to"),
        (RenderedExample([1] * 501, [True] * 501), r"sequences\[0\]: 501 tokens; use 1 to 500"),
    ],
)
def test_sequences_that_cannot_be_scored_are_refused_by_number(
    engine: ProcessEngine, sequence: RenderedExample, message: str
) -> None:
    with pytest.raises(InvalidArgument, match=message):
        engine.score(ScoreRequest("tiny", (sequence,)))
    with pytest.raises(NotFound, match="has no checkpoint of step 6"):
        engine.score(ScoreRequest("tiny", (RenderedExample([1, 2], [False, True]),), AdapterRef("job1", 6)))


def test_answers_move_on_between_the_passes_of_a_long_sequence(
    stepper: Callable[..., ManualBatcher], in_process: ServedAdapter, examples: list[RenderedExample]
) -> None:
    one = stepper()
    alone = stepper().answer("one", "b", max_output_tokens=6).text
    handle, scored = asked([examples[2]], "a")
    num_passes = -(-len(examples[2].token_ids) // CHUNK_TOKENS)
    assert num_passes > 1
    answer, heard = one.ask("one", "b", max_output_tokens=6)
    one.batcher.submit_score(handle)
    one.steps(num_passes)
    assert not scored.outcomes
    assert one.batcher._rows[0].cached_tokens > len(answer.prompt_ids)
    one.steps(6)
    assert heard.text == alone
    (scores,) = scored.outcomes
    assert isinstance(scores, list)
    torch.testing.assert_close(scores[0], in_process.logprobs([examples[2]])[0], atol=2e-4, rtol=2e-4)
    assert [adapter.users for adapter in one.batcher.adapters.resident.values()] == [0, 0]


def test_scores_wait_for_room_for_their_adapter_and_cancelled_ones_go(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper(max_resident=1)
    _, heard = one.ask("one", "b", max_output_tokens=3)
    one.steps(1)
    waiting, scored = asked([examples[0]], "a")
    cancelled, never = asked([examples[0]], "a")
    cancelled.cancel()
    one.batcher.submit_score(cancelled)
    one.batcher.submit_score(waiting)
    one.steps(1)
    assert not scored.outcomes
    one.steps(6)
    assert heard.finish is not None
    assert len(scored.outcomes) == 1 and isinstance(scored.outcomes[0], list)
    assert not never.outcomes


def test_an_answer_waits_for_room_for_its_adapter_while_another_scores(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper(max_resident=1)
    handle, scored = asked([examples[2]], "a")
    one.batcher.submit_score(handle)
    one.steps(1)
    assert not scored.outcomes
    _, heard = one.ask("one", "b", max_output_tokens=3)
    one.steps(40)
    assert heard.finish is not None
    assert isinstance(scored.outcomes[0], list)


def test_a_request_cancelled_in_mid_sequence_frees_its_adapter(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper()
    handle, scored = asked([examples[2]], "a")
    one.batcher.submit_score(handle)
    one.steps(1)
    assert one.batcher.adapters.resident[AdapterRef("a")].users == 1
    handle.cancel()
    one.steps(1)
    assert one.batcher.adapters.resident[AdapterRef("a")].users == 0
    assert not scored.outcomes


def test_a_failing_pass_and_a_failing_consumer_leave_the_others_be(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper()
    missing, told = asked([examples[0]], "nowhere")
    broken, told_too = asked([RenderedExample([10_000_000, 1], [False, True])], None)
    good, scored = asked([examples[0]], "a")

    def fail(_: Scores | KastorError) -> None:
        raise ConnectionError

    gone = ScoreHandle([examples[0]], lambda _: (), None, fail)
    for handle in (missing, broken, gone, good):
        one.batcher.submit_score(handle)
    one.steps(8)
    assert isinstance(told.outcomes[0], KastorError) and "There is no adapter" in told.outcomes[0].message
    assert isinstance(told_too.outcomes[0], KastorError)
    assert isinstance(scored.outcomes[0], list)


def test_whoever_waits_for_scores_is_told_when_the_process_ends(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper()
    begun, first = asked([examples[2]], "a")
    queued, second = asked([examples[0]], None)
    one.batcher.submit_score(begun)
    one.steps(1)
    one.batcher.submit_score(queued)
    one.batcher.close()
    one.batcher.run()
    assert [type(told) for told in (*first.outcomes, *second.outcomes)] == [Unavailable, Unavailable]
    with pytest.raises(Unavailable, match="is ending"):
        one.batcher.submit_score(queued)


def test_numbers_that_are_not_finite_are_no_scores(
    stepper: Callable[..., ManualBatcher], examples: list[RenderedExample]
) -> None:
    one = stepper()
    with torch.no_grad():
        one.batcher.model.lm_head.weight.fill_(torch.nan)
    handle, scored = asked([examples[0]], None)
    one.batcher.submit_score(handle)
    one.steps(2)
    assert isinstance(scored.outcomes[0], KastorError) and "not finite" in scored.outcomes[0].message


def test_scores_of_another_adapter_are_not_given_for_this_one(
    in_process: ServedAdapter, examples: list[RenderedExample]
) -> None:
    with pytest.raises(NotFound, match="Adapter b is not loaded; a is"):
        in_process.score(ScoreRequest("tiny", tuple(examples), AdapterRef("b")))
    golden = [GoldenExample(0, examples[0], torch.zeros(1))]
    with pytest.raises(KastorError, match="in example 0"):
        check_logprobs(golden, [torch.full((1,), torch.nan)], EXACT)
