"""Text tuning against TRL: `python -m bench.text`. Same model, adapter, precision and examples, one process per run.

Draws examples of mixed lengths (prompts log-normal around 180 tokens, short answers), trains Kastor's loop and TRL's
SFTTrainer on them in turn, several times over, and prints tokens per second, peak memory and the share of the machine's
bf16 matmul peak. Only true tokens count, never padding. TRL runs with several settings; the ratio is to its fastest.
"""

import argparse
import json
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kastor.domain.content import Example
from kastor.domain.job import AdapterShape, Hyperparameters, TuningSpec
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.download import ensure_local
from kastor.settings import COMPUTE_VARIABLES, load_settings

PROMPT_TOKENS_MEDIAN, PROMPT_TOKENS_SIGMA, PROMPT_TOKENS_MOST = 180, 0.7, 1024
ANSWER_WORDS_MOST = 11
BATCH_SIZE = 4
LEARNING_RATE = 1e-3
WARM_UP_STEPS = 2  # in every run, not counted
FLOP_PER_PARAMETER = 4  # a token: forward 2, gradient of the activations 2; the base is frozen
PEAK_SIZES = (1024, 2048, 4096)

TRL_SETTINGS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl-grouped": {"grouped": True},
    "trl-packing": {"packing": True},
    "trl-padding-free": {"padding_free": True},
    "trl-autocast": {"bf16": True},
    "trl-eager": {"attention": "eager"},
}
DEFAULT_CONTENDERS = ("kastor", "trl", "trl-grouped", "trl-packing")
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world", "school", "state")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one process measured."""

    contender: str
    num_tokens: int  # of the counted steps
    elapsed_s: float  # likewise
    cpu_s: float  # of all threads, likewise; says more than `elapsed_s` where other programs want the cores too
    peak_bytes: int  # of the whole process
    first_loss: float
    last_loss: float

    @property
    def tokens_per_s(self) -> float:
        """True tokens a second."""
        return self.num_tokens / self.elapsed_s

    @property
    def tokens_per_cpu_s(self) -> float:
        """True tokens a second of processor time."""
        return self.num_tokens / self.cpu_s


def draw_examples(renderer: Renderer, num_rows: int, seed: int) -> list[RenderedExample]:
    """Prompts whose number of tokens is log-normal, answers of 1 to 12 tokens."""
    source = random.Random(seed)  # noqa: S311  # a benchmark's data
    overhead = len(renderer.example(Example.pair("", "")).token_ids)
    rows = []
    for _ in range(num_rows):
        length = round(source.lognormvariate(math.log(PROMPT_TOKENS_MEDIAN), PROMPT_TOKENS_SIGMA))
        num_words = max(1, min(length, PROMPT_TOKENS_MOST) - overhead)
        prompt = " ".join(source.choices(WORDS, k=num_words))
        answer = " ".join(source.choices(WORDS, k=source.randint(1, ANSWER_WORDS_MOST)))
        rows.append(renderer.example(Example.pair(prompt, answer)))
    return rows


def run_kastor(base: BaseModel, folder: Path, rows: list[RenderedExample]) -> Outcome:
    """Kastor's loop as the worker runs it."""
    from kastor.models.load import load_base
    from kastor.training.loop import Trainer
    from kastor.training.lora import add_lora

    spec = TuningSpec(base.id, Hyperparameters(1, BATCH_SIZE, LEARNING_RATE), base.adapter, len(rows))
    trainer = Trainer(add_lora(load_base(folder), base.adapter, seed=0), rows, spec)
    ends, reports = [], []
    while not trainer.done:
        reports.append(trainer.run_step())
        ends.append(_clocks())
    tokens = [report.num_tokens for report in reports]
    return _outcome("kastor", tokens, ends, [report.mean_loss for report in reports])


def run_trl(contender: str, base: BaseModel, folder: Path, rows: list[RenderedExample]) -> Outcome:
    """SFTTrainer on the same tokens, in the order given."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    settings = dict(TRL_SETTINGS[contender])
    attention, packing = settings.pop("attention", "sdpa"), settings.get("packing", False)
    if settings.pop("grouped", False):  # what group_by_length does, at its best: least padding over the whole run
        rows = sorted(rows, key=lambda row: len(row.token_ids))
    longest = max(len(row.token_ids) for row in rows)
    mean = sum(len(row.token_ids) for row in rows) / len(rows)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            per_device_train_batch_size=1 if packing else BATCH_SIZE,
            num_train_epochs=1,
            max_length=max(longest, round(BATCH_SIZE * mean)) if packing else None,
            learning_rate=LEARNING_RATE,
            gradient_checkpointing=False,
            completion_only_loss=True,
            train_sampling_strategy="sequential",
            use_cpu=True,
            disable_tqdm=True,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            **{"bf16": False, **settings},
        )
        trainer = SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation=attention),
            args=config,
            train_dataset=Dataset.from_list(
                [
                    {"input_ids": row.token_ids, "completion_mask": [int(learnt) for learnt in row.supervised]}
                    for row in rows
                ]
            ),
            processing_class=AutoTokenizer.from_pretrained(folder),
            peft_config=_lora(LoraConfig, base.adapter),
        )
        return _timed_trl(contender, trainer)


def _lora(config: Any, shape: AdapterShape) -> Any:  # noqa: ANN401  # peft's
    return config(r=shape.rank, lora_alpha=shape.alpha, target_modules=list(shape.targets), task_type="CAUSAL_LM")


def _timed_trl(contender: str, trainer: Any) -> Outcome:  # noqa: ANN401  # trl's
    from transformers import TrainerCallback

    ends: list[tuple[float, float]] = []
    tokens: list[int] = []  # of each batch, in the order in which they are trained on
    collate = trainer.data_collator

    def counting(examples: list[dict[str, Any]]) -> Any:  # noqa: ANN401  # a batch
        tokens.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    class Clock(TrainerCallback):  # type: ignore[misc]  # untyped
        def on_step_end(self, *_: object, **__: object) -> None:
            ends.append(_clocks())

    trainer.data_collator = counting
    trainer.add_callback(Clock())
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return _outcome(contender, tokens, ends, losses)


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _outcome(contender: str, tokens: list[int], ends: list[tuple[float, float]], losses: list[float]) -> Outcome:
    """From the tokens of each step and the clocks at its end; the first steps warm up."""
    elapsed_s, cpu_s = (end - begin for begin, end in zip(ends[WARM_UP_STEPS - 1], ends[-1], strict=True))
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    counted = sum(tokens[WARM_UP_STEPS : len(ends)])
    return Outcome(contender, counted, elapsed_s, cpu_s, peak_bytes, losses[0], losses[-1])


def matmul_peak() -> float:
    """FLOP/s of the best bf16 matmul of three sizes, best of ten."""
    import torch

    best = 0.0
    for size in PEAK_SIZES:
        a, b = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
        out = torch.empty_like(a)
        for _ in range(10):
            began = time.perf_counter()
            torch.mm(a, b, out=out)
            best = max(best, 2 * size**3 / (time.perf_counter() - began))
    return best


def child(what: str, arguments: argparse.Namespace) -> None:
    """One measurement in this process; prints it as the last line."""
    import torch

    from kastor.models.load import compute_threads

    torch.set_num_threads(arguments.threads or compute_threads())
    if what == "peak":
        print(json.dumps(matmul_peak()))
        return
    base = load_catalog().base(arguments.base)
    folder = arguments.folder or ensure_local(base, load_settings().cache_dir)
    rows = draw_examples(Renderer.open(folder, base.family), arguments.rows, arguments.seed)
    rows = random.Random(arguments.seed).sample(rows, min(len(rows), arguments.steps * BATCH_SIZE))  # noqa: S311
    outcome = run_kastor(base, folder, rows) if what == "kastor" else run_trl(what, base, folder, rows)
    print(json.dumps(asdict(outcome)))


def measured(what: str, arguments: list[str]) -> Any:  # noqa: ANN401  # what `child` printed
    """The result of one child process."""
    command = [sys.executable, "-m", "bench.text", *arguments, "--child", what]
    variables = {**COMPUTE_VARIABLES, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", **os.environ}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)  # noqa: S603  # our own module
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def summary(outcomes: list[Outcome], peak: float, num_parameters: int) -> list[dict[str, Any]]:
    """A line for each contender: medians over the repeats."""
    lines = []
    for name in dict.fromkeys(outcome.contender for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.contender == name]
        rate = statistics.median(outcome.tokens_per_s for outcome in mine)
        lines.append(
            {
                "contender": name,
                "tokens_per_s": rate,
                "slowest": min(outcome.tokens_per_s for outcome in mine),
                "fastest": max(outcome.tokens_per_s for outcome in mine),
                "tokens_per_cpu_s": statistics.median(outcome.tokens_per_cpu_s for outcome in mine),
                "peak_bytes": max(outcome.peak_bytes for outcome in mine),
                "peak_share": rate * FLOP_PER_PARAMETER * num_parameters / peak,
            }
        )
    return lines


def show(lines: list[dict[str, Any]], peak: float) -> None:
    """The table, and the ratio to TRL's fastest setting."""
    print(f"bf16 matmul peak {peak / 1e9:.0f} GFLOP/s")
    print(f"{'':18}{'tokens/s':>9}{'(range)':>16}{'a CPU second':>14}{'peak memory':>13}{'of the peak':>13}")
    for line in lines:
        spread = f"({line['slowest']:.0f} … {line['fastest']:.0f})"
        print(
            f"{line['contender']:18}{line['tokens_per_s']:9.0f}{spread:>16}{line['tokens_per_cpu_s']:14.0f}"
            f"{line['peak_bytes'] / 1e9:10.2f} GB{line['peak_share']:13.0%}"
        )
    for measure, words in (("tokens_per_s", "in tokens a second"), ("tokens_per_cpu_s", "a CPU second")):
        rates = {line["contender"]: line[measure] for line in lines}
        others = {name: rate for name, rate in rates.items() if name != "kastor"}
        if others and "kastor" in rates:
            best = max(others, key=lambda name: others[name])
            print(f"kastor is {rates['kastor'] / others[best]:.2f} times as fast as {best} {words}")


def main() -> None:
    """Run every contender `--repeats` times, interleaved, and print the table."""
    parser = argparse.ArgumentParser(prog="bench.text", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct", help="a base model of the catalog")
    parser.add_argument("--folder", type=Path, help="its folder, if it is not to be taken from the cache")
    parser.add_argument("--rows", type=int, default=240, help="examples drawn")
    parser.add_argument("--steps", type=int, default=8, help="optimizer steps a run, of 4 examples each")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, help="the cores this process may use, if absent")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--contenders", default=",".join(DEFAULT_CONTENDERS), help="of kastor, " + ", ".join(TRL_SETTINGS)
    )
    parser.add_argument("--json", type=Path, help="write all measurements there")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child, arguments)
        return
    given, outcomes, peaks = sys.argv[1:], [], []
    for _ in range(arguments.repeats):
        peaks.append(measured("peak", given))
        for contender in arguments.contenders.split(","):
            outcomes.append(Outcome(**measured(contender, given)))
            print(f"{contender}: {outcomes[-1].tokens_per_s:.0f} tokens/s", file=sys.stderr)
    base = load_catalog().base(arguments.base)
    lines = summary(outcomes, max(peaks), base.num_parameters)
    show(lines, max(peaks))
    if arguments.json:
        document = {"matmul_flops": max(peaks), "summary": lines, "runs": [asdict(outcome) for outcome in outcomes]}
        arguments.json.write_text(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
