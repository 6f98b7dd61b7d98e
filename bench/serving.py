"""Throughput of the serving engine in tokens per second: `python -m bench.serving [--folder BASE] [--threads N]`.

Decodes greedily with the real batcher, without HTTP, for 1, 4 and 8 parallel answers, with no adapter, one for all,
and four different ones, in bf16 and fp32, and prefills a long prompt; prints a table of each. Set OMP_WAIT_POLICY to
PASSIVE to measure what the generation process does (`serving.remote` sets it there).
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.generation import Sampling
from kastor.models.catalog import load_catalog
from kastor.models.chat.render import Renderer
from kastor.models.download import ensure_local
from kastor.models.load import compute_threads, load_base
from kastor.serving.builtin.continuous_batching import ContinuousBatcher, EngineLimits
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager
from kastor.settings import load_settings

BASE = "smollm2-135m-instruct"
RANK = 8
NUM_TOKENS = 48
PROMPT_TOKENS = 60
LONG_PROMPT_TOKENS = 1024
BOUNDS = EngineLimits(
    max_rows=8, max_prompt_tokens=7168, max_output_tokens=1024, context_tokens=8192, max_cache_tokens=1 << 20
)


def random_adapter(folder: Path, model: torch.nn.Module, targets: tuple[str, ...], seed: int) -> None:
    """A PEFT directory with random numbers on every target."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and name.rpartition(".")[2] in targets:
            down = torch.randn(RANK, layer.in_features, generator=generator) * 0.02
            up = torch.randn(layer.out_features, RANK, generator=generator) * 0.02
            tensors[f"base_model.model.{name}.lora_A.weight"] = down
            tensors[f"base_model.model.{name}.lora_B.weight"] = up
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = f'{{"peft_type": "LORA", "r": {RANK}, "lora_alpha": 16, "target_modules": null}}'
    (folder / "adapter_config.json").write_text(config)


def decoding_rate(batcher: ContinuousBatcher, prompt: list[int], num_rows: int, num_adapters: int) -> float:
    """Tokens a second of all rows together, once all have been taken in."""
    sampling = Sampling(temperature=0, max_output_tokens=NUM_TOKENS + 4)
    for row in range(num_rows):
        batcher.submit(
            prompt, sampling, AdapterRef(f"a{row % num_adapters}") if num_adapters else None, lambda event: None
        )
    while len(batcher._rows) < num_rows:
        batcher.step()
    for _ in range(2):
        batcher.step()
    counted = sum(row.output_tokens for row in batcher._rows)
    began = time.perf_counter()
    for _ in range(NUM_TOKENS // 2):
        batcher.step()
    rate = (sum(row.output_tokens for row in batcher._rows) - counted) / (time.perf_counter() - began)
    while batcher._rows:
        batcher.step()
    return rate


def prefill_rate(batcher: ContinuousBatcher, prompt: list[int]) -> float:
    """Prompt tokens a second of one long prompt."""
    ids = (prompt * (LONG_PROMPT_TOKENS // len(prompt) + 1))[:LONG_PROMPT_TOKENS]
    batcher.submit(ids, Sampling(temperature=0, max_output_tokens=1), None, lambda event: None)
    began = time.perf_counter()
    batcher.step()
    while batcher._entering:
        batcher.step()
    return len(ids) / (time.perf_counter() - began)


def measure(folder: Path, dtype: torch.dtype) -> None:
    """Print the table of one precision."""
    family = load_catalog().base(BASE).family
    model = load_base(folder, dtype=dtype)
    renderer = Renderer.open(folder, family)
    prompt = (renderer.text("The quick brown fox jumps over the lazy dog. ") * 20)[:PROMPT_TOKENS]
    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        for seed in range(4):
            random_adapter(Path(name) / f"a{seed}", model, family.lora_targets, seed)
        bank = AdapterManager(model, lambda ref: Path(name) / str(ref), max_resident=8)
        batcher = ContinuousBatcher(model, bank, renderer.tokenizer, frozenset(), BOUNDS, SlotKVCache.like(model))
        decoding_rate(batcher, prompt, 8, 0)  # warm
        prompt_rate = max(prefill_rate(batcher, prompt) for _ in range(3))
        print(f"\n{dtype}: prompt {prompt_rate:.0f} tokens/s; decoding, tokens/s of all rows together:")
        print("rows   base   1 adapter   4 adapters")
        for rows in (1, 4, 8):
            rates = [max(decoding_rate(batcher, prompt, rows, n) for _ in range(3)) for n in (0, 1, 4)]
            print(f"{rows:4d} {rates[0]:6.1f} {rates[1]:11.1f} {rates[2]:12.1f}")


def main() -> None:
    """Measure both precisions."""
    parser = argparse.ArgumentParser(prog="bench.serving", description=__doc__)
    parser.add_argument("--folder", type=Path, help="base model in transformers' format; the embedded one by default")
    parser.add_argument("--threads", type=int, default=compute_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    folder = given.folder or ensure_local(load_catalog().base(BASE), load_settings().cache_dir)
    print(f"{folder}, {given.threads} threads, torch {torch.__version__}, best of 3 each")
    for dtype in (torch.bfloat16, torch.float32):
        measure(folder, dtype)


if __name__ == "__main__":
    main()
