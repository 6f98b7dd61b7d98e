"""What fused decoder layers save, or could save: `python -m bench.fused_layers [--base ID] [--steps N]`.

Trains a base on the rows of `bench.text` with its stock layers and, where they fit, with fused ones, step by step in
turn. Prints seconds of processor time per step, their ratio, and how a stock step divides among operations: matrix
products are what fusion cannot save.
"""

import argparse
import json
import time
from collections import Counter

from bench.text import BATCH_SIZE, LEARNING_RATE, draw_examples
from kastor.domain.job import Hyperparameters, TuningSpec
from kastor.models.catalog import load_catalog
from kastor.models.chat.render import Renderer
from kastor.models.download import ensure_local
from kastor.settings import load_settings

MATRIX_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear", "mkldnn::_linear_pointwise")


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--steps", type=int, default=4)
    given = parser.parse_args()

    from torch.profiler import ProfilerActivity, profile

    from kastor.models.load import load_base
    from kastor.training.fused_llama_cpu import use_fused_layers, use_stock_layers
    from kastor.training.loop import Trainer
    from kastor.training.lora import add_lora

    settings = load_settings()
    base = load_catalog(settings.catalog_file).bases[given.base]
    folder = ensure_local(base, settings.cache_dir)
    rows = draw_examples(Renderer.open(folder, base.family), (2 * given.steps + 3) * BATCH_SIZE, seed=0)
    spec = TuningSpec(base.id, Hyperparameters(1, BATCH_SIZE, LEARNING_RATE), base.adapter, len(rows))
    model = add_lora(load_base(folder), base.adapter, seed=0)
    trainer = Trainer(model, rows, spec)
    fits = use_fused_layers(model)

    def step(*, fused: bool) -> tuple[float, int]:
        if fits and fused:
            use_fused_layers(model)
        else:
            use_stock_layers(model)
        begun = time.process_time()
        report = trainer.run_step()
        return time.process_time() - begun, report.num_tokens

    step(fused=False)
    step(fused=True)
    spent: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    for number in range(2 * given.steps):
        way = "fused" if fits and number % 2 else "stock"
        seconds, num_tokens = step(fused=way == "fused")
        spent[way] += seconds
        tokens[way] += num_tokens
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(fused=False)
    parts: Counter[str] = Counter()
    for event in profiled.key_averages():
        parts["products" if event.key in MATRIX_PRODUCTS else "rest"] += event.self_cpu_time_total
    per_token = {way: spent[way] / tokens[way] for way in spent}
    print(
        json.dumps(
            {
                "base": base.id,
                "cpu_ms_per_token": {way: round(1e3 * seconds, 2) for way, seconds in per_token.items()},
                "ratio": round(per_token["stock"] / per_token["fused"], 2) if fits else None,
                "share_of_matrix_products": round(parts["products"] / parts.total(), 2),
            }
        )
    )


if __name__ == "__main__":
    main()
