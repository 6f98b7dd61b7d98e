"""Tiny bases of the text families: random weights of the family's architecture, a tokenizer with its control tokens."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from kastor.models.chat.families import GEMMA3, LLAMA3, QWEN3, QWEN3_INSTRUCT, SMOLLM2, Family
from kastor.models.chat.render import Renderer
from kastor.models.chat.tokenizer import load_tokenizers
from support.tiny_models import MERGES, SPECIAL_TOKENS

QWEN_TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
MARKED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "smollm2": SPECIAL_TOKENS,
        "smollm2-plain": SPECIAL_TOKENS,
        "qwen3": SPECIAL_TOKENS,
        "qwen3-instruct": SPECIAL_TOKENS,
        "llama3": ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>"),
        "gemma3": ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    }
)
"""Tokens that the family's tokenizer marks as special."""
UNMARKED: Mapping[str, tuple[str, ...]] = MappingProxyType({"qwen3": QWEN_TAGS, "qwen3-instruct": QWEN_TAGS})
"""Tokens that it has, and recognises in any text."""
TEXT_FAMILIES = (SMOLLM2, QWEN3, QWEN3_INSTRUCT, LLAMA3, GEMMA3)


def family_tokenizer(family: Family) -> Any:
    """A byte-level BPE tokenizer with the control tokens of the family, marked as its own has them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    marked, unmarked = MARKED[family.name], UNMARKED.get(family.name, ())
    words = [*marked, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES), *unmarked]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in marked])
    tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in unmarked])
    return tokenizer


def family_renderer(family: Family) -> Renderer:
    """Its renderer."""
    return Renderer(*load_tokenizers(family_tokenizer(family).to_str(), family), family)


def family_config(family: Family) -> Any:
    """The configuration of the family's architecture: 2 layers, 64 wide, 4 query heads on 2 key-value heads."""
    from transformers import Gemma3TextConfig, LlamaConfig, Qwen3Config

    shape: dict[str, Any] = {
        "vocab_size": family_tokenizer(family).get_vocab_size(),
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.1,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "attn_implementation": "sdpa",
    }
    if family is GEMMA3:  # one layer with a window, one without; everything here is shorter than the window
        kinds = ["sliding_attention", "full_attention"]
        return Gemma3TextConfig(**shape, sliding_window=512, layer_types=kinds, query_pre_attn_scalar=16)
    return LlamaConfig(**shape) if family in (LLAMA3, SMOLLM2) else Qwen3Config(**shape)


def family_base(family: Family, folder: Path, seed: int = 0) -> Path:
    """A base model's folder as `ensure_local` gives it."""
    import torch
    from transformers import AutoModelForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(family_config(family), attn_implementation="sdpa").save_pretrained(folder)
    family_tokenizer(family).save(str(folder / "tokenizer.json"))
    return folder
