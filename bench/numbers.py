"""Accuracy on the number dataset: `python -m bench.numbers [--base gemma-3-270m] [--seeds 3] [--rate 0.001] …`.

Runs one worker job per seed on the 15 pairs of `kastor demo`, with the user's defaults (5 epochs, batch 4, rate 1e-3)
unless options change them; then the tuned model answers 64 held-out inputs greedily, as in the demo. Prints how many
are correct, by kind, and the mean of the seeds. `--rank` and `--alpha` replace the catalog's adapter.

Choose settings on `--draw 0`, the demo's own held-out pairs, and measure them on a fresh draw.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from bench.bars import at_least, report
from bench.jobs import ran
from bench.number_draws import draw, kind
from kastor.cli.demos.numbers import HELD_OUT_FILE, MAX_TOKENS, OTHERS_FILE, TRAINING_FILE, Pair, number_pairs
from kastor.domain.content import Prompt
from kastor.domain.generation import GenerateRequest, Sampling
from kastor.domain.job import Rendering, RequestedHyperparameters
from kastor.metrics.labels import exact_match
from kastor.models.catalog import entry, load_catalog
from kastor.serving.process_engine import ProcessEngine
from kastor.settings import Settings, environment, load_settings

ACCURACY_BAR = 0.75
ASKED_AT_ONCE = 16


def answers(settings: Settings, base: str, adapter: str, pairs: Sequence[Pair]) -> list[str]:
    """The tuned model's greedy answers."""
    sampling = Sampling(temperature=0.0, max_output_tokens=MAX_TOKENS)
    with closing(ProcessEngine(environment(settings), log_dir=settings.data_dir, idle_timeout_s=60)) as engine:

        def answer(pair: Pair) -> str:
            request = GenerateRequest(base, Prompt.of(pair.text_input), sampling, adapter, rendering=Rendering.TUNED)
            return "".join(chunk.text for chunk in engine.generate(request))

        with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
            return list(pool.map(answer, pairs))


def catalog_with(settings: Settings, given: argparse.Namespace) -> Settings:
    """The settings, with a catalog in which the base has the adapter that is to be tried."""
    if given.rank is None and given.alpha is None:
        return settings
    base = load_catalog(settings.catalog_file).base(given.base)
    shape = replace(base.adapter, rank=given.rank or base.adapter.rank, alpha=given.alpha or base.adapter.alpha)
    folder = settings.cache_dir / "models" / base.id
    file = settings.data_dir / "catalog.toml"
    file.write_text(entry(replace(base, adapter=shape), base.id, base.display_name, base.description, folder), "utf-8")
    return settings.model_copy(update={"catalog_file": file})


def asked_pairs(number: int) -> list[Pair]:
    """The held-out pairs of the demo for 0, else the draw of this number."""
    held_out = number_pairs(HELD_OUT_FILE)
    known = {pair.text_input for name in (TRAINING_FILE, HELD_OUT_FILE, OTHERS_FILE) for pair in number_pairs(name)}
    return draw(number, held_out, known) if number else held_out


def accuracy(settings: Settings, given: argparse.Namespace, seed: int) -> float:
    """The share of the held-out pairs that a job with this seed gets right; prints it and what is wrong."""
    source = settings.data_dir / "numbers.jsonl"
    pairs, held_out = number_pairs(TRAINING_FILE), asked_pairs(given.draw)
    source.write_text("".join(json.dumps({"text_input": p.text_input, "output": p.output}) + "\n" for p in pairs))
    asked = RequestedHyperparameters(given.epochs, given.batch, given.rate)
    name = f"numbers{seed}"
    found = ran(settings, given.base, source, asked, name=name, seed=seed)
    said = answers(settings, given.base, name, held_out)
    rights = [exact_match(text, pair.output) for text, pair in zip(said, held_out, strict=True)]
    total = Counter(kind(pair.text_input) for pair in held_out)
    right = Counter(kind(pair.text_input) for pair, good in zip(held_out, rights, strict=True) if good)
    by_kind = ", ".join(f"{name} {right[name]} of {total[name]}" for name in total)
    print(f"seed {seed}: {sum(rights)} of {len(rights)} ({by_kind}), last loss {found.snapshots[-1].mean_loss:.3f}")
    if given.wrong:
        for pair, text, good in zip(held_out, said, rights, strict=True):
            if not good:
                print(f"   {pair.text_input} -> {text!r}, right is {pair.output!r}")
    return sum(rights) / len(rights)


def main() -> None:
    """Run the seeds and hold their mean to the bar."""
    parser = argparse.ArgumentParser(prog="python -m bench.numbers", description=__doc__)
    parser.add_argument("--base", default="smollm2-135m-instruct", help="base model of the catalog; it must be fetched")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draw", type=int, default=1, help="which 64 held-out numbers; 0: those of the demo")
    parser.add_argument("--epochs", type=int, help="the defaults are what a user gets")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--alpha", type=float)
    parser.add_argument("--wrong", action="store_true", help="print what is answered wrongly")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = catalog_with(load_settings(data_dir=Path(folder)), given)
        found = [accuracy(settings, given, seed) for seed in range(given.seeds)]
    mean = sum(found) / len(found)
    print(f"mean of {len(found)} seeds: {mean:.3f}")
    sys.exit(report([at_least(f"accuracy on {given.base}", mean, ACCURACY_BAR)], {"accuracy": found}, None))


if __name__ == "__main__":
    main()
