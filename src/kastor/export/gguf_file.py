"""A merged model as one GGUF file, for llama.cpp and what is built on it: models of Llama's form only.

Tensor names come from the `gguf` package; what is written here is what llama.cpp's converter does for this form: the
rows of q and k in its rotary order, the tokenizer as lists, the hyperparameters as keys.
"""

import json
from collections.abc import Mapping
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
    TokenType,
    get_tensor_name_map,
)
from gguf.quants import quantize
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from kastor.domain.errors import Unimplemented
from kastor.export.folders import chat_template, merged
from kastor.export.order import Order, Weights
from kastor.models.load import best_device
from kastor.models.tokenizer_files import tokenizer_file

FILE = "model.gguf"
BLOCK = 32  # numbers that share a scale in Q8_0
TYPES: Mapping[Weights, tuple[GGMLQuantizationType, LlamaFileType]] = {
    Weights.F16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    Weights.BF16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    Weights.Q8_0: (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
INSTEAD = "Export it as merged, and convert that folder by llama.cpp's convert_hf_to_gguf.py."


def write_gguf(order: Order, folder: Path) -> None:
    """The merged model as `model.gguf`.

    Raises:
        Unimplemented: its tokenizer cannot be written soundly; names what it has.

    """
    model = merged(order)
    tokenizer = json.loads(tokenizer_file(order.base_folder, order.rendering).read_text("utf-8"))
    kind, file_type = TYPES[order.weights]
    writer = GGUFWriter(folder / FILE, "llama")
    try:
        writer.add_name(order.model or order.job)
        _add_shape(writer, model.config)
        writer.add_file_type(file_type)
        _add_tokenizer(writer, tokenizer, model.config, chat_template(order))
        _add_tensors(writer, model, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def read_gguf(_: Order, folder: Path) -> Any:  # noqa: ANN401  # transformers model
    """The file, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=FILE, dtype=torch.float32)
    return model.eval().to(best_device())


def check_form(base_folder: Path) -> None:
    """Nothing, if models of this base's form are written as GGUF.

    Raises:
        Unimplemented: they are not; names what the base has.

    """
    config = AutoConfig.from_pretrained(str(base_folder))
    if type(config) is not LlamaConfig:
        form = (config.architectures or [config.model_type])[0]
        raise Unimplemented(f"{form} cannot be written as GGUF here, only Llama's form. {INSTEAD}")
    rope = (config.rope_parameters or {}).get("rope_type", "default")
    if rope != "default" or config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
        raise Unimplemented(
            f"A Llama with rope {rope!r}, biases ({config.attention_bias}, {config.mlp_bias}) or {config.hidden_act} "
            f"cannot be written as GGUF here. {INSTEAD}"
        )


def _add_shape(writer: Any, config: Any) -> None:  # noqa: ANN401  # GGUFWriter, LlamaConfig
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_vocab_size(config.vocab_size)


def _add_tokenizer(writer: Any, tokenizer: Mapping[str, Any], config: Any, template: str | None) -> None:  # noqa: ANN401
    """The byte-level BPE of tokenizer.json as GGUF has it."""
    if tokenizer["model"].get("type") != "BPE" or tokenizer.get("normalizer"):
        raise Unimplemented(f"Only a byte-level BPE tokenizer can be written as GGUF here. {INSTEAD}")
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    names = {index: token for token, index in tokenizer["model"]["vocab"].items()}
    names |= {index: entry["content"] for index, entry in added.items()}
    texts, kinds = [], []
    for index in range(config.vocab_size):
        texts.append(names.get(index, f"[PAD{index}]"))
        if index in added:
            kinds.append(TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED)
        else:
            kinds.append(TokenType.NORMAL if index in names else TokenType.UNUSED)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer(tokenizer["pre_tokenizer"]))
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    for add, token in (
        (writer.add_bos_token_id, config.bos_token_id),
        (writer.add_eos_token_id, config.eos_token_id),
        (writer.add_pad_token_id, config.pad_token_id),
    ):
        if isinstance(token, int):
            add(token)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)


def pre_tokenizer(found: Mapping[str, Any] | None) -> str:
    """llama.cpp's name for the way in which tokenizer.json cuts text into words.

    What the file does counts, not what the model family is known for: another cut gives tokens never trained on.

    Raises:
        Unimplemented: it is none that has a name here.

    """
    parts = list((found or {}).get("pretokenizers", [found or {}]))
    *before, last = parts
    plain = last.get("type") == "ByteLevel" and not last.get("add_prefix_space") and last.get("use_regex", True)
    if plain and not before:
        return "gpt-2"
    if plain and before == [{"type": "Digits", "individual_digits": True}]:
        return "smollm"
    raise Unimplemented(f"A tokenizer that cuts words by {[part.get('type') for part in parts]} has no name. {INSTEAD}")


def _add_tensors(writer: Any, model: Any, kind: GGMLQuantizationType) -> None:  # noqa: ANN401  # GGUFWriter, transformers
    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight",))
        if target is None:
            raise Unimplemented(f"The tensor {name} has no name in GGUF. {INSTEAD}")
        numbers = tensor.float().cpu().numpy()
        if name.endswith("q_proj.weight"):
            numbers = interleaved(numbers, config.num_attention_heads)
        elif name.endswith("k_proj.weight"):
            numbers = interleaved(numbers, config.num_key_value_heads)
        stored = kind
        if numbers.ndim == 1:
            stored = GGMLQuantizationType.F32
        elif kind is GGMLQuantizationType.Q8_0 and numbers.shape[-1] % BLOCK:
            stored = GGMLQuantizationType.F16
        writer.add_tensor(target, quantize(numbers, stored), raw_dtype=stored)


def interleaved(weight: npt.NDArray[np.float32], num_heads: int) -> npt.NDArray[np.float32]:
    """Rows of a q or k projection in llama.cpp's rotary order: the two halves of each head in turn.

    >>> interleaved(np.arange(8, dtype=np.float32)[:, None], 2)[:, 0].tolist()
    [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]
    """
    shape = weight.shape
    halves = weight.reshape(num_heads, 2, shape[0] // num_heads // 2, *shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(shape))
