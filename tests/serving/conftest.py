"""A tiny base, adapters of different shapes for it, and a batcher that the tests step by hand."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import Renderer
from kastor.models.load import load_base
from kastor.serving.builtin.constrained_decoding import GrammarCompiler
from kastor.serving.builtin.continuous_batching import ContinuousBatcher, EngineLimits
from kastor.serving.builtin.kv_cache import SlotKVCache
from kastor.serving.builtin.multi_lora import AdapterManager
from support.manual_batcher import ManualBatcher
from support.tiny_models import CONTEXT_TOKENS, tiny_adapter, tiny_base

BOUNDS = EngineLimits(
    max_rows=8, max_prompt_tokens=400, max_output_tokens=64, context_tokens=CONTEXT_TOKENS, max_cache_tokens=8192
)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def adapters_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters a … d, unlike in rank, alpha, scaling and targets."""
    root = tmp_path_factory.mktemp("adapters")
    tiny_adapter(root / "a", seed=1, rank=4)
    tiny_adapter(root / "b", seed=2, rank=8, alpha=4)
    tiny_adapter(root / "c", seed=3, rank=3, alpha=16, targets=("q_proj", "v_proj"))
    tiny_adapter(root / "d", seed=4, rank=4, alpha=4, rslora=True)
    return root


@pytest.fixture
def stepper(base_folder: Path, adapters_root: Path) -> Callable[..., ManualBatcher]:
    def make(max_resident: int = 8, **bounds: int) -> ManualBatcher:
        model = load_base(base_folder, dtype=torch.float32)
        renderer = Renderer.open(base_folder, SMOLLM2)
        bank = AdapterManager(model, lambda ref: adapters_root / str(ref), max_resident)
        cache = SlotKVCache.like(model)
        end_ids = frozenset({renderer.closing_id})
        batcher = ContinuousBatcher(model, bank, renderer.tokenizer, end_ids, replace(BOUNDS, **bounds), cache)
        return ManualBatcher(
            batcher, renderer, GrammarCompiler(renderer.tokenizer.to_str(), end_ids, model.config.vocab_size)
        )

    return make
