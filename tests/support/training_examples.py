"""A tiny model with an adapter, and random examples, for tests of training."""

from typing import Any

import numpy as np
import torch

from kastor.domain.job import AdapterShape, Hyperparameters, TuningSpec
from kastor.models.chat.families import LLAMA_LINEARS
from kastor.models.chat.render import RenderedExample
from kastor.training.lora import add_lora
from support.tiny_models import tiny_config, tiny_model

SHAPE = AdapterShape(rank=4, alpha=8.0, targets=LLAMA_LINEARS)


def examples(lengths: tuple[int, ...] = (7, 12, 3, 20, 5), seed: int = 0) -> list[RenderedExample]:
    """Random tokens, of which the last third of each example is supervised."""
    random = np.random.default_rng(seed)
    made = []
    for length in lengths:
        learnt = max(1, length // 3)
        made.append(
            RenderedExample(random.integers(3, 250, length).tolist(), [False] * (length - learnt) + [True] * learnt)
        )
    return made


def spec(num_examples: int, **changes: Any) -> TuningSpec:
    hyperparameters = Hyperparameters(**{"num_epochs": 3, "batch_size": 2, "learning_rate": 0.01} | changes)
    return TuningSpec("tiny", hyperparameters, SHAPE, num_examples, seed=3)


def tuned_model() -> Any:
    model = add_lora(tiny_model(), SHAPE, seed=1)
    with torch.no_grad():  # B starts at zero, which would hide the gradient of A
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    return model


def wide_model() -> Any:
    """An untrained adapter on a model that holds 350 MB for a row of 4,096 tokens."""
    from transformers import LlamaForCausalLM

    config = tiny_config()
    config.update({"hidden_size": 128, "intermediate_size": 1024, "num_hidden_layers": 4})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return add_lora(LlamaForCausalLM(config).eval(), SHAPE, seed=1)
