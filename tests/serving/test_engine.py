"""The real generation process, with a tiny base, behind the server's side of it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.content import Content, FunctionCall, FunctionResponse, Prompt, Role
from kastor.domain.errors import DataLoss, InvalidArgument, NotFound, Unavailable
from kastor.domain.generation import FinishReason, GenerateRequest, ResponseFormat, Sampling
from kastor.domain.job import Rendering
from kastor.models.chat.tokenizer_files import SMOLLM
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.serving.process_engine import ProcessEngine, engine_command
from kastor.settings import Settings, environment
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_adapter, tiny_base

GREEDY = Sampling(temperature=0, max_output_tokens=12)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("engine")
    tiny_adapter(root / "data" / "jobs" / "job1" / "adapter", seed=1)
    bases = {"tiny": tiny_base(root / "base"), "gone": root / "nowhere"}
    catalog = tiny_catalog(root / "catalog.toml", bases, input_token_limit=300, output_token_limit=100)
    return Settings(data_dir=root / "data", cache_dir=root / "cache", catalog_file=catalog, num_threads=1)


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[ProcessEngine]:
    made = ProcessEngine(environment(settings), log_dir=settings.data_dir, idle_timeout_s=60)
    yield made
    made.close()


def asked(
    text: str, adapter: str | None = None, sampling: Sampling = GREEDY, base: str = "tiny", step: int | None = None
) -> GenerateRequest:
    return GenerateRequest(base, Prompt.of(text), sampling, None if adapter is None else AdapterRef(adapter, step))


def answer(engine: ProcessEngine, request: GenerateRequest) -> str:
    return "".join(chunk.text for chunk in engine.generate(request))


def test_base_and_adapter_answer_side_by_side(engine: ProcessEngine) -> None:
    base, tuned = answer(engine, asked("one")), answer(engine, asked("one", "job1"))
    assert base != tuned
    with ThreadPoolExecutor(8) as pool:
        # not compared letter by letter: the base is in bf16, where the batch's size decides between near-equal tokens
        requests = [asked("one"), asked("one", "job1")] * 4
        assert all(pool.map(lambda request: answer(engine, request), requests))


def test_every_checkpoint_can_be_called_beside_the_published_adapter(engine: ProcessEngine, settings: Settings) -> None:
    for step in (7, 12):
        tiny_adapter(settings.data_dir / "jobs" / "job1" / "checkpoints" / f"step-{step:06d}", seed=step)
    answers = {step: answer(engine, asked("one", "job1", step=step)) for step in (None, 7, 12)}
    assert len(set(answers.values())) == 3
    with pytest.raises(NotFound, match=r"Job job1 has no checkpoint of step 8\."):
        answer(engine, asked("one", "job1", step=8))


def test_prompt_tokens_are_those_that_are_counted(engine: ProcessEngine) -> None:
    chunks = list(engine.generate(asked("one")))
    assert chunks[-1].prompt_tokens == engine.count_tokens("tiny", Prompt.of("one"))
    assert chunks[-1].finish_reason in (FinishReason.MAX_TOKENS, FinishReason.STOP)


def test_a_model_of_the_first_release_is_answered_with_its_own_tokenizer(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    document = json.loads((base / "tokenizer.json").read_text())
    (base / "tokenizer.json").write_text(json.dumps(document | {"pre_tokenizer": SMOLLM}))
    document["model"]["merges"].append(["1", "2"])
    document["model"]["vocab"]["12"] = document["model"]["vocab"].pop("Ġthe")
    document["model"]["merges"].remove(["Ġt", "he"])
    (base / "tokenizer-1.json").write_text(json.dumps(document))
    catalog = tiny_catalog(tmp_path / "catalog.toml", {"tiny": base}, input_token_limit=300, output_token_limit=100)
    settings = Settings(data_dir=tmp_path, cache_dir=tmp_path / "cache", catalog_file=catalog, num_threads=1)
    engine = ProcessEngine(environment(settings), log_dir=tmp_path, idle_timeout_s=60)
    try:
        first, now = (replace(asked("12"), rendering=one) for one in (Rendering.FIRST, Rendering.PUBLISHED))
        counts = [list(engine.generate(request))[-1].prompt_tokens for request in (first, now)]
        assert counts[0] + 1 == counts[1]
        assert counts == [engine.count_tokens("tiny", one.prompt, rendering=one.rendering) for one in (first, now)]
    finally:
        engine.close()


def test_a_text_that_no_number_of_long_tokens_could_hold_is_refused_uncounted(engine: ProcessEngine) -> None:
    began = time.monotonic()
    for _ in range(3):
        with pytest.raises(InvalidArgument, match="The input has 4,000,000 characters; the 300 tokens"):
            engine.count_tokens("tiny", Prompt.of("word " * 800_000))
        with pytest.raises(InvalidArgument, match="The input has 4,000,000 characters"):
            answer(engine, asked("word " * 800_000))
    assert time.monotonic() - began < 10  # six of them; each took seconds to count
    assert answer(engine, asked("one"))


def test_calls_and_their_responses_reach_the_process(engine: ProcessEngine) -> None:
    answered = Prompt(
        (
            *Prompt.of("rain?").contents,
            Content(Role.MODEL, (FunctionCall("f", '{"a":1}'),)),
            Content(Role.USER, (FunctionResponse("f", '{"b":true}'),)),
        )
    )
    chunks = list(engine.generate(GenerateRequest("tiny", answered, GREEDY)))
    assert chunks[-1].prompt_tokens == engine.count_tokens("tiny", answered)
    fewer = Prompt((*answered.contents[:2], Content(Role.USER, (FunctionResponse("f", "{}"),))))
    assert engine.count_tokens("tiny", fewer) < chunks[-1].prompt_tokens


def test_errors_arrive_as_they_are(engine: ProcessEngine) -> None:
    with pytest.raises(InvalidArgument, match=r"exceeds the maximum number of tokens allowed \(300\)"):
        answer(engine, asked("x" * 400))
    with pytest.raises(DataLoss, match="job2/adapter cannot be used: manifest.json is missing"):
        answer(engine, asked("x", "job2"))


@pytest.mark.parametrize(
    ("name", "job_id"), [("adapter_model.safetensors", "halved"), ("adapter_config.json", "scaled")]
)
def test_a_damaged_adapter_never_answers_and_others_go_on(
    engine: ProcessEngine, settings: Settings, name: str, job_id: str
) -> None:
    folder = tiny_adapter(settings.data_dir / "jobs" / job_id / "adapter", seed=2)
    assert answer(engine, asked("one", "job1"))
    content = (folder / name).read_bytes()
    if job_id == "halved":
        harmed = content[: len(content) // 2] + bytes(len(content) // 2)
    else:
        harmed = json.dumps(json.loads(content) | {"lora_alpha": 80}).encode()
    (folder / name).write_bytes(harmed)
    for _ in range(2):
        with pytest.raises(DataLoss, match=f"{job_id}/adapter cannot be used: {name} is damaged"):
            answer(engine, asked("one", job_id))
    assert answer(engine, asked("one", "job1"))
    (folder / name).write_bytes(content)  # restored from a backup
    assert answer(engine, asked("one", job_id))


def test_candidates_penalties_logprobs_and_a_form_reach_the_process(engine: ProcessEngine) -> None:
    schema = json.dumps({"type": "integer", "minimum": 0, "maximum": 99})
    sampling = Sampling(
        seed=3,
        max_output_tokens=20,
        presence_penalty=0.5,
        top_logprobs=2,
        form=ResponseFormat("responseSchema", schema),
    )
    chunks = list(
        engine.generate(GenerateRequest("tiny", Prompt.of("one"), sampling, AdapterRef("job1"), num_candidates=3))
    )
    assert sum(chunk.finish_reason is not None for chunk in chunks) == 3
    for index in range(3):
        own = [chunk for chunk in chunks if chunk.index == index]
        assert 0 <= json.loads("".join(chunk.text for chunk in own)) <= 99
        assert sum(len(chunk.steps) for chunk in own) == own[-1].output_tokens
        assert all(len(step.top) == 2 for chunk in own for step in chunk.steps)


def test_a_form_that_cannot_be_followed_is_refused_by_its_name(engine: ProcessEngine) -> None:
    sampling = Sampling(form=ResponseFormat("responseSchema", '{"type": "string", "pattern": "(?=a)b"}'))
    with pytest.raises(InvalidArgument, match="responseSchema: cannot be followed: .*look-ahead"):
        answer(engine, asked("one", sampling=sampling))
    assert answer(engine, asked("one"))


def test_an_answer_nobody_waits_for_is_dropped(engine: ProcessEngine) -> None:
    long = Sampling(temperature=2, max_output_tokens=100)
    for _ in range(20):
        begun = engine.generate(asked("one", sampling=long))
        next(begun)
        begun.close()  # type: ignore[attr-defined]
    assert answer(engine, asked("one"))


def test_a_base_that_is_not_there_is_one_clear_sentence(engine: ProcessEngine) -> None:
    with pytest.raises(Unavailable, match=r"could not start: .*nowhere holds no config\.json"):
        answer(engine, asked("one", base="gone"))


@pytest.mark.usefixtures("without_fork_server")
def test_an_orphaned_process_ends_and_removes_its_socket(settings: Settings, tmp_path: Path) -> None:
    lifeline, socket = ParentDeathPipe(), tmp_path / "s"
    command = engine_command("tiny", socket, lifeline.child_fd)
    with subprocess.Popen(
        command, env={**os.environ, **environment(settings)}, pass_fds=(lifeline.child_fd,), start_new_session=True
    ) as process:
        deadline = time.monotonic() + 60
        while not socket.exists() and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        lifeline.close()
        assert process.wait(10) == 0
    assert not socket.exists()


def test_the_servers_side_never_imports_torch() -> None:
    script = (
        "import sys, kastor.serving.process_engine; "
        "sys.exit(bool({'torch', 'transformers', 'uvicorn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


HANGING = """\
# forked, with torch imported
import sys, threading
from pathlib import Path
from kastor.engine import main
from kastor.serving.builtin.continuous_batching import ContinuousBatcher

flag, forward = Path(sys.argv[1]), ContinuousBatcher._forward

def hang_once(*arguments, **options):
    if flag.exists():
        flag.unlink()
        threading.Event().wait()
    return forward(*arguments, **options)

ContinuousBatcher._forward = hang_once
main(sys.argv[2:])
"""


def test_a_process_whose_generating_thread_hangs_is_ended_and_the_next_call_answered(
    settings: Settings, tmp_path: Path
) -> None:
    flag = tmp_path / "hangs"

    def command(base: str, socket: Path, parent_fd: int) -> list[str]:
        arguments = engine_command(base, socket, parent_fd)[3:]
        return [sys.executable, "-c", HANGING, str(flag), *arguments]

    impatient = settings.model_copy(update={"engine_stall_timeout_s": 1.0})
    hanging = ProcessEngine(
        environment(impatient), log_dir=tmp_path, idle_timeout_s=60, silence_timeout_s=1.0, command=command
    )
    try:
        assert answer(hanging, asked("one"))
        flag.touch()
        with pytest.raises(Unavailable, match=r"did not answer for 1 s and was ended|ended in mid-answer; try again"):
            answer(hanging, asked("one"))
        assert not flag.exists()
        assert answer(hanging, asked("one"))
    finally:
        hanging.close()
