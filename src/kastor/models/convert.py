"""Weights as published -> as Kastor keeps them: `python -m kastor.models.convert WEIGHTS RESULT [FAMILY]`.

A GGUF becomes a folder in transformers' format, bf16; a checkpoint of EfficientNet-lite0 (.pth) one safetensors file.
"""

import os
import sys
from pathlib import Path

from kastor.models.chat.jinja_templates import CHAT_TEMPLATES
from kastor.models.chat.tokenizer_files import repair_tokenizer


def convert(gguf: Path, folder: Path, family: str = "") -> None:
    """Write `folder` with config.json, model.safetensors (bf16), tokenizer.json and a chat template from the GGUF file.

    A pretrained model has no chat template of its own: it gets its family's.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # fp32 first: the quantised kernels compute in it, and rounding to bf16 then happens once
    model = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    model.config.quantization_config = None
    del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    model.to(torch.bfloat16).save_pretrained(folder)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHAT_TEMPLATES.get(family)
    tokenizer.save_pretrained(folder)
    repair_tokenizer(folder, _pre_tokenizer(gguf))


def _pre_tokenizer(gguf: Path) -> str:
    """What the GGUF says of how its tokenizer cuts text."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).get_field("tokenizer.ggml.pre")
    return "default" if field is None else str(field.contents())


def convert_tower(checkpoint: Path, result: Path) -> None:
    """Write the folded weights of the checkpoint, from which nothing but tensors is read."""
    import torch
    from safetensors.torch import save_file

    from kastor.models.vision.efficientnet import fold_batch_norm

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    save_file({name: tensor.contiguous() for name, tensor in fold_batch_norm(state).items()}, result)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    weights, result = Path(sys.argv[1]), Path(sys.argv[2])
    if weights.suffix == ".pth":
        convert_tower(weights, result)
    else:
        convert(weights, result, *sys.argv[3:])
