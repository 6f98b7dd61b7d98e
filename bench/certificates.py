"""Distances in the certificates of many adapters of the real base: `python -m bench.certificates [NUMBER]`.

Tunes adapters of 1 to 30 steps, rates 1e-5 to 1e-2 and ranks 1 to 64 on pairs in eleven scripts, certifies each, and
prints a line for each: the largest and the mean difference of a token's log-probability, and the processor seconds
that it took. The last line has the largest of all. Exits with an error if one is refused.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kastor.domain.certificate import Certificate
from kastor.domain.content import Example
from kastor.domain.job import AdapterShape, Hyperparameters, TuningSpec
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.chat.render import Renderer
from kastor.models.download import ensure_local
from kastor.models.load import compute_threads, load_base
from kastor.settings import load_settings
from kastor.training.loop import Trainer
from kastor.training.lora import add_lora
from kastor.worker.certify import certify_adapter

BASE = "smollm2-135m-instruct"
PAIRS = (
    *(("1", "2"), ("-3", "-2"), ("twenty two", "twenty three"), ("quatre", "cinq"), ("где вокзал?", "рядом")),
    *(("καλημέρα", "good morning"), ("صباح الخير", "مساء النور"), ("שלום", "בוקר טוב"), ("नमस्ते", "धन्यवाद")),
    *(("七", "八"), ("おはよう", "こんばんは"), ("안녕하세요", "감사합니다"), ("สวัสดี", "ขอบคุณ"), ("🙂", "🙃🎉")),
)


def adapter(base: BaseModel, folder: Path, chance: random.Random) -> tuple[str, Certificate, float]:
    """Tune one adapter; returns its description, certificate and the processor seconds of certification."""
    steps, rank, rate = chance.randint(1, 30), chance.choice((1, 2, 4, 8, 16, 64)), 10 ** chance.uniform(-5, -2)
    pairs = chance.sample(PAIRS, chance.randint(1, 8))
    renderer = Renderer.open(folder, base.family)
    examples = [renderer.example(Example.pair(*pair)) for pair in pairs]
    shape = AdapterShape(rank, 2.0 * rank, base.family.lora_targets)
    model: Any = add_lora(load_base(folder), shape, seed=1)
    spec = TuningSpec(base.id, Hyperparameters(steps, len(examples), rate), shape, len(examples), seed=1)
    trainer = Trainer(model, examples, spec)
    while not trainer.done:
        trainer.run_step()
    with tempfile.TemporaryDirectory() as place:
        model.save_pretrained(place)
        began = time.process_time()
        proof = certify_adapter(
            model, examples, None, renderer, Path(place), base_model=base.id, seed=1, check_cancelled=lambda: None
        )
    return f"{len(pairs)} pairs, {steps} steps, rank {rank}, {rate:.1e}", proof, time.process_time() - began


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("number", nargs="?", type=int, default=20, help="adapters to tune")
    number, settings = parser.parse_args().number, load_settings()
    torch.set_num_threads(settings.num_threads or compute_threads())
    base = load_catalog(settings.catalog_file).base(BASE)
    folder = ensure_local(base, settings.cache_dir, lambda _: None)
    chance, proofs = random.Random(0), list[Certificate]()  # noqa: S311  # repeatable, not secret
    for _ in range(number):
        what, proof, seconds = adapter(base, folder, chance)
        proofs.append(proof)
        said = f"{what}: {proof.largest_difference:.1e}, {proof.mean_difference:.1e} ({seconds:.1f} s)"
        if proof.rounding is not None:
            served, stock = proof.rounding.served.mean, proof.rounding.stock.mean
            said += f"; mean distance of {proof.dtype} from fp32: served {served:.1e}, stock {stock:.1e}"
        print(said, flush=True)
    largest, mean = (max(getattr(proof, f"{kind}_difference") for proof in proofs) for kind in ("largest", "mean"))
    tolerance = proofs[0].tolerance
    print(f"of {number}: {largest:.1e}, {mean:.1e}; {tolerance.largest:g} and {tolerance.mean:g} are tolerated")


if __name__ == "__main__":
    main()
