"""Writes a merged model as one GGUF file for llama.cpp: the Llama architecture, and the text-only Gemma 3.

Tensor names come from the `gguf` package. This module does what llama.cpp's converter does for these architectures: the
rows of q and k in its rotary order (Llama), norms plus the 1 that the model adds (Gemma), hyperparameters as keys.
`gguf_tokenizer` writes the tokenizer.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gguf import (
    MODEL_ARCH,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
)
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from kastor.domain.errors import Unimplemented
from kastor.export.gguf_tokenizer import INSTEAD, add_tokenizer
from kastor.export.hf_formats import chat_template, merge_adapter
from kastor.export.request import ExportRequest, Weights
from kastor.models.chat.tokenizer_files import tokenizer_file
from kastor.models.device import best_device

FILE = "model.gguf"
BLOCK = 32  # numbers that share a scale in Q8_0
TYPES: Mapping[Weights, tuple[GGMLQuantizationType, LlamaFileType]] = {
    Weights.F16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    Weights.BF16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    Weights.Q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
GEMMA_FULL_EVERY = 6  # layers; the others have a sliding window
GEMMA_LOCAL_ROPE = 10_000.0  # base of the rotary embedding in layers with a window


def write_gguf(order: ExportRequest, folder: Path) -> None:
    """Write the merged model as `model.gguf`.

    Raises:
        Unimplemented: its tokenizer cannot be expressed in GGUF; names the part.

    """
    model = merge_adapter(order)
    tokenizer = json.loads(tokenizer_file(order.base_folder, order.rendering).read_text("utf-8"))
    kind, file_type = TYPES[order.weights]
    writer = GGUFWriter(folder / FILE, ARCHITECTURES[type(model.config)].arch)
    try:
        writer.add_name(order.model or order.job)
        _add_shape(writer, model.config)
        writer.add_file_type(file_type)
        add_tokenizer(writer, tokenizer, model.config, chat_template(order))
        _add_tensors(writer, model, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_gguf(_: ExportRequest, folder: Path) -> Any:  # noqa: ANN401  # transformers model
    """The exported file, loaded by transformers."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=FILE, dtype=torch.float32)
    return model.eval().to(best_device())


def check_gguf_support(base_folder: Path) -> None:
    """Check that models of this base's architecture can be written as GGUF.

    Raises:
        Unimplemented: they cannot; names the architecture or the fields.

    """
    config = AutoConfig.from_pretrained(str(base_folder))
    architecture = ARCHITECTURES.get(type(config))
    if architecture is None:
        name = (config.architectures or [config.model_type])[0]
        raise Unimplemented(f"{name} cannot be written as GGUF here, only Llama and Gemma 3. {INSTEAD}")
    values = {name: (_value(config, name), fixed) for name, fixed in architecture.fixed(config).items()}
    different = ", ".join(f"{name} {value!r}" for name, (value, fixed) in values.items() if value != fixed)
    if different:
        raise Unimplemented(f"A {architecture.arch} with {different} cannot be written as GGUF here. {INSTEAD}")


@dataclass(frozen=True, slots=True)
class Architecture:
    """A model architecture that GGUF knows: its name there, and the values that the format assumes."""

    arch: str
    tensors: MODEL_ARCH
    fixed: Callable[[Any], Mapping[str, Any]]  # configuration -> the values that its fields must have


def _llama_fixed(_: Any) -> Mapping[str, Any]:  # noqa: ANN401  # LlamaConfig
    return {"rope": {"rope_type": "default"}, "attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}


def _gemma_fixed(config: Any) -> Mapping[str, Any]:  # noqa: ANN401  # Gemma3TextConfig
    """llama.cpp has these values in its code for gemma3, not in the file."""
    full = [(layer + 1) % GEMMA_FULL_EVERY == 0 for layer in range(config.num_hidden_layers)]
    return {
        "rope": {
            "full_attention": {"rope_type": "default"},
            "sliding_attention": {"rope_type": "default", "rope_theta": GEMMA_LOCAL_ROPE},
        },
        "layer_types": ["full_attention" if whole else "sliding_attention" for whole in full],
        "attention_bias": False,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": config.head_dim,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "use_bidirectional_attention": False,
        "tie_word_embeddings": True,
    }


ARCHITECTURES: Mapping[type, Architecture] = {
    LlamaConfig: Architecture("llama", MODEL_ARCH.LLAMA, _llama_fixed),
    Gemma3TextConfig: Architecture("gemma3", MODEL_ARCH.GEMMA3, _gemma_fixed),
}


def _value(config: Any, name: str) -> Any:  # noqa: ANN401  # of a configuration
    """A field of the configuration; `rope` is the rotary embedding without its base, which has a key in the file."""
    if name != "rope":
        return getattr(config, name)
    rope = config.rope_parameters or {}
    if isinstance(config, LlamaConfig):
        return {"rope_type": rope.get("rope_type", "default")}
    written = {kind: dict(values) for kind, values in rope.items()}
    written.get("full_attention", {}).pop("rope_theta", None)
    return written


def _add_shape(writer: Any, config: Any) -> None:  # noqa: ANN401  # GGUFWriter, one of ARCHITECTURES
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    rope = config.rope_parameters
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(rope.get("full_attention", rope)["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)
    if isinstance(config, Gemma3TextConfig):
        writer.add_sliding_window(config.sliding_window)


def _add_tensors(writer: Any, model: Any, kind: GGMLQuantizationType) -> None:  # noqa: ANN401  # GGUFWriter, transformers
    config = model.config
    names = get_tensor_name_map(ARCHITECTURES[type(config)].tensors, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise Unimplemented(f"The tensor {name} has no name in GGUF. {INSTEAD}")
        numbers = tensor.float().cpu().numpy()
        numbers = _as_stored(name, numbers, config)
        stored = kind
        if numbers.ndim == 1:
            stored = GGMLQuantizationType.F32
        elif kind is GGMLQuantizationType.Q8_0 and numbers.shape[-1] % BLOCK:
            stored = GGMLQuantizationType.F16
        writer.add_tensor(target, quantize(numbers, stored), raw_dtype=stored)


def _as_stored(name: str, numbers: npt.NDArray[np.float32], config: Any) -> npt.NDArray[np.float32]:  # noqa: ANN401
    """A tensor's numbers in the layout that llama.cpp computes with."""
    if isinstance(config, Gemma3TextConfig):
        return numbers + 1 if name.endswith("norm.weight") else numbers
    if name.endswith("q_proj.weight"):
        return permute_for_rope(numbers, config.num_attention_heads)
    if name.endswith("k_proj.weight"):
        return permute_for_rope(numbers, config.num_key_value_heads)
    return numbers


def permute_for_rope(weight: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """Rows of a q or k projection in llama.cpp's rotary order: the two halves of each head in turn.

    >>> permute_for_rope(np.arange(8, dtype=np.float32)[:, None], 2)[:, 0].tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    shape = weight.shape
    halves = weight.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))
