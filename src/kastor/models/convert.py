"""A GGUF file -> a folder in transformers' format, bf16: `python -m kastor.models.convert GGUF FOLDER`."""

import os
import sys
from pathlib import Path


def convert(gguf: Path, folder: Path) -> None:
    """Write `folder` with config.json, model.safetensors (bf16) and tokenizer.json from the GGUF file."""
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
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
