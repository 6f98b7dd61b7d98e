"""Add a LoRA adapter to a frozen base with peft, and remove it. Adapter weights are fp32."""

import warnings
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from kastor.domain.job import AdapterShape
from kastor.models.load import SENSES
from kastor.training.fused_llama_cpu import use_stock_layers
from kastor.training.loss import use_stock_attention


def add_lora(base: Any, shape: AdapterShape, *, seed: int) -> Any:  # noqa: ANN401  # transformers model -> peft model
    """Add a new adapter: A is random from `seed`, B is zero, so that training starts from the unchanged base."""
    config = LoraConfig(
        r=shape.rank,
        lora_alpha=shape.alpha,
        target_modules=list(shape.targets),
        lora_dropout=0.0,
        bias="none",
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        model = get_peft_model(base, config)
    if type(base).__name__.endswith("ForConditionalGeneration"):
        # saved with the adapter: the full model has towers whose layers have the same names
        model.peft_config["default"].exclude_modules = rf".*\b({'|'.join(SENSES)})\b.*"
    return model


def remove_lora(model: Any) -> Any:  # noqa: ANN401  # peft model -> transformers model
    """The base as it was loaded, without adapter and training kernels. `model` must not be used afterwards."""
    base = model.unload()
    use_stock_layers(base)
    use_stock_attention(base)
    return base
