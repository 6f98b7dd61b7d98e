"""Tiny randomly initialised models, built by the tests: CI reaches no hub, and a tiny Llama finds faults as well.

Importing this module is cheap; torch and transformers load when a builder is called.
"""

from pathlib import Path
from typing import Any

from kastor.models.chat.families import LLAMA_LINEARS, NANO_VL
from kastor.models.vision.specs import TOWER_FILE
from kastor.store.blobs.manifests import write_manifest

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CONTEXT_TOKENS = 512
TOWER_CHANNELS = 12
MERGES = (("Ġ", "t"), ("h", "e"), ("i", "n"), ("e", "r"), ("t", "w"), ("o", "n"), ("tw", "e"), ("Ġt", "he"))


def tiny_tokenizer(more: tuple[str, ...] = ()) -> Any:
    """A byte-level BPE tokenizer: three control tokens, 256 bytes, a few merges. Any text goes through it unharmed.

    `more` are further control tokens, behind the rest of the vocabulary.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    words = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(a + b for a, b in MERGES), *more]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(MERGES)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS + more])
    return tokenizer


def tiny_config(more: tuple[str, ...] = ()) -> Any:
    """A Llama of 2 layers, 64 wide, 4 query heads on 2 key-value heads, tied embeddings, a context of 512 tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=tiny_tokenizer(more).get_vocab_size(),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.1,  # wide enough for the positions to tell from one another
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="sdpa",
    )


def tiny_model(seed: int = 0, more: tuple[str, ...] = ()) -> Any:
    """The tiny Llama with random fp32 weights; the same weights for the same seed."""
    import torch
    from transformers import LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(tiny_config(more)).eval()


def tiny_base(folder: Path, seed: int = 0) -> Path:
    """A base model's folder as `ensure_local` gives it: config.json, model.safetensors (fp32), tokenizer.json."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model(seed).save_pretrained(folder)
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


def tiny_gemma_base(folder: Path, seed: int = 0) -> Path:
    """A base of the family `gemma3` that reads text: seven layers, of which the sixth sees everything."""
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    special = ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")
    merges = [("t", "h"), ("o", "n"), ("th", "e"), ("\u2581", "the"), ("t", "w"), ("tw", "o"), ("\u2581", "two")]
    characters = ["\u2581", "\n", *(chr(code) for code in range(33, 127))]
    words = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *characters, *(a + b for a, b in merges)]
    model = models.BPE(
        vocab={word: index for index, word in enumerate(words)},
        merges=merges,
        byte_fallback=True,
        fuse_unk=True,
        unk_token="<unk>",
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 2)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    config = Gemma3TextConfig(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=7,
        num_attention_heads=4,
        num_key_value_heads=1,
        head_dim=256,  # as all of them have it: a GGUF does not say what queries are scaled by
        query_pre_attn_scalar=256,
        sliding_window=16,
        max_position_embeddings=CONTEXT_TOKENS,
        initializer_range=0.1,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = Gemma3ForCausalLM(config)
        for name, parameter in base.named_parameters():  # a norm of zeros would hide that 1 is added to it
            if name.endswith("norm.weight"):
                torch.nn.init.normal_(parameter, std=0.3)
    base.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def tiny_tower(seed: int = 0) -> Any:
    """Random folded weights of a tower of the true architecture with few channels: name -> tensor; 12 come out."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    layers: dict[str, Any] = {}

    def add(name: str, outputs: int, inputs: int, size: int) -> None:
        layers[f"{name}.weight"] = torch.randn(outputs, inputs, size, size, generator=generator) * (
            1.6 / (inputs * size * size) ** 0.5
        )
        layers[f"{name}.bias"] = torch.randn(outputs, generator=generator) * 0.3

    add("stem", 4, 3, 3)
    channels = 4
    for index in range(16):
        inside = channels if index == 0 else 2 * channels
        if index:
            add(f"{index}.expand", inside, channels, 1)
        add(f"{index}.depthwise", inside, 1, 3 if index % 2 else 5)
        channels = TOWER_CHANNELS if index == 15 else 4 + 2 * (index // 5)
        add(f"{index}.project", channels, inside, 1)
    return layers


def tiny_seeing_base(folder: Path, seed: int = 0) -> Path:
    """A base of the family `kastor-nano-vl`: the tiny Llama with the token for pictures, and the tiny tower."""
    from safetensors.torch import save_file

    assert NANO_VL.vision is not None
    more = (NANO_VL.vision.placeholder,)
    folder.mkdir(parents=True, exist_ok=True)
    tiny_model(seed, more).save_pretrained(folder)
    tiny_tokenizer(more).save(str(folder / "tokenizer.json"))
    save_file(tiny_tower(seed), folder / TOWER_FILE)
    return folder


def tiny_adapter(
    folder: Path,
    seed: int,
    rank: int = 4,
    *,
    alpha: float = 8,
    rslora: bool = False,
    targets: tuple[str, ...] = LLAMA_LINEARS,
    base: Any = None,
) -> Path:
    """A PEFT adapter directory for the tiny base, or `base`, written by peft itself, with random A and non-zero B."""
    import warnings

    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, target_modules=list(targets), use_rslora=rslora, task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():  # peft 0.21 reads an attribute that transformers 5.23 deprecates
        warnings.simplefilter("ignore", FutureWarning)
        model = get_peft_model(tiny_model() if base is None else base, config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    write_manifest(folder, {})
    return folder
