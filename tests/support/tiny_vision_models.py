"""Tiny randomly initialised vision-language models of the real architectures; `tiny_models` has the text ones.

Each has few, narrow layers, and as many tokens per image as the published models: 64 and 256 where those have them.
Importing this module is cheap; torch and transformers load when a builder is called.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from support.tiny_models import tiny_tokenizer

CONTEXT_TOKENS = 4096
WIDTH = 64  # of the language models
QWEN_TOKENS = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
GEMMA_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_of_image>",
    "<end_of_image>",
    "<image_soft_token>",
)
GEMMA4_TOKENS = (
    "<pad>",
    "<eos>",
    "<bos>",
    "<|turn>",
    "<turn|>",
    "<|image>",
    "<image|>",
    "<|image|>",
    "<|video|>",
    "<|channel>",
    "<channel|>",
)
GEMMA4_LARGE: Mapping[str, Any] = MappingProxyType(
    {
        "hidden_size_per_layer_input": 0,
        "use_bidirectional_attention": "vision",
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
    }
)
SMOLVLM_TOKENS = (
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
    "<end_of_utterance>",
)
LLAVA_TOKENS = ("<s>", "</s>", "<pad>", "<image>")


def tiny_gemma3(folder: Path, seed: int = 0) -> Path:
    """Gemma 3: SigLIP, 32 x 32 patches pooled to 16 x 16 tokens; one layer with a sliding window, one without."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    ids = _ids(GEMMA_TOKENS)
    text = _text(GEMMA_TOKENS) | {
        "query_pre_attn_scalar": 16,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"],
        "pad_token_id": ids["<pad>"],
        "eos_token_id": ids["<eos>"],
        "bos_token_id": ids["<bos>"],
    }
    config = Gemma3Config(
        text_config=text,
        vision_config=_vision(image_size=256, patch_size=8) | {"vision_use_head": False},
        mm_tokens_per_image=256,
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
        image_token_index=ids["<image_soft_token>"],
        pad_token_id=ids["<pad>"],
        eos_token_id=[ids["<eos>"], ids["<end_of_turn>"]],
        bos_token_id=ids["<bos>"],
    )
    return _saved(folder, Gemma3ForConditionalGeneration, config, GEMMA_TOKENS, seed)


def tiny_gemma4(folder: Path, seed: int = 0) -> Path:
    """Gemma 4 as the large ones are: pictures both ways in layers with a window, values that are keys in the others.

    Patches of 16 pixels are averaged three by three, at any proportions.
    """
    return _gemma4(folder, seed, GEMMA4_LARGE)


def tiny_gemma4_moe(folder: Path, seed: int = 0) -> Path:
    """Gemma 4 as 26B A4B is: large, and beside each layer's own feed-forward part two of four experts."""
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24}
    return _gemma4(folder, seed, {**GEMMA4_LARGE, **experts})


def tiny_gemma4_e(folder: Path, seed: int = 0) -> Path:
    """Gemma 4 as E2B is: a clipped tower, embeddings for each layer, two layers that read the others' keys, ears."""
    audio = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "subsampling_conv_channels": [8, 4],
        "output_proj_dims": 48,
    }
    more = {
        "num_kv_shared_layers": 2,
        "use_double_wide_mlp": True,
        "vocab_size_per_layer_input": len(_ids(GEMMA4_TOKENS)),
        "hidden_size_per_layer_input": 8,
    }
    return _gemma4(folder, seed, more, {"audio_config": audio})


def _gemma4(folder: Path, seed: int, text: Mapping[str, Any], more: Mapping[str, Any] = MappingProxyType({})) -> Path:
    from transformers import Gemma4Config, Gemma4ForConditionalGeneration

    ids = _ids(GEMMA4_TOKENS)
    ends = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<bos>"]}
    shape = _text(GEMMA4_TOKENS) | {
        "num_hidden_layers": 4,
        "sliding_window": 128,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "global_head_dim": 32,
        "eos_token_id": ids["<eos>"],
        "final_logit_softcapping": 30.0,
    }
    vision = _vision(image_size=0, patch_size=16) | {"num_key_value_heads": 2, "head_dim": 16, "standardize": True}
    del vision["image_size"]
    config = Gemma4Config(
        text_config={**shape, **text, **ends},
        vision_config=vision | {"position_embedding_size": 1024, "use_clipped_linears": "audio_config" in more},
        boi_token_id=ids["<|image>"],
        eoi_token_id=ids["<image|>"],
        image_token_id=ids["<|image|>"],
        video_token_id=ids["<|video|>"],
        eos_token_id=[ids["<eos>"], ids["<turn|>"]],
        **ends,
        **more,
    )
    return _saved(folder, Gemma4ForConditionalGeneration, config, GEMMA4_TOKENS, seed)


def tiny_qwen3_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen3-VL: patches of 16 pixels merged two by two, features of two layers given to the first two (deepstack)."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    vision = _qwen_vision() | {
        "depth": 3,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config=_qwen_text() | {"num_hidden_layers": 3, "rope_parameters": rope},
        vision_config=vision,
        **_qwen_ids(),
    )
    return _saved(folder, Qwen3VLForConditionalGeneration, config, QWEN_TOKENS, seed)


def tiny_qwen2_5_vl(folder: Path, seed: int = 0) -> Path:
    """Qwen2.5-VL: patches of 14 pixels merged two by two, one layer that attends in windows, one that does not."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    vision = _qwen_vision() | {"depth": 2, "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2]}
    config = Qwen2_5_VLConfig(text_config=_qwen_text() | {"rope_parameters": rope}, vision_config=vision, **_qwen_ids())
    return _saved(folder, Qwen2_5_VLForConditionalGeneration, config, QWEN_TOKENS, seed)


def tiny_smolvlm(folder: Path, seed: int = 0) -> Path:
    """SmolVLM: squares of 16 x 16 patches, shuffled two by two to 64 tokens, before a Llama."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vision = _vision(image_size=128, patch_size=8) | {"model_type": "smolvlm_vision"}
    config = SmolVLMConfig(vision_config=vision, scale_factor=2, **_smolvlm_rest())
    return _saved(folder, SmolVLMForConditionalGeneration, config, SMOLVLM_TOKENS, seed)


def tiny_idefics3(folder: Path, seed: int = 0) -> Path:
    """Idefics3: as SmolVLM, of squares that have more than 64 tokens, 100, at their full size."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration

    vision = _vision(image_size=80, patch_size=4) | {"model_type": "idefics3_vision"}
    config = Idefics3Config(vision_config=vision, scale_factor=2, **_smolvlm_rest())
    return _saved(folder, Idefics3ForConditionalGeneration, config, SMOLVLM_TOKENS, seed)


def tiny_llava(folder: Path, seed: int = 0) -> Path:
    """LLaVA-1.5: the last but one of three layers of CLIP, 24 x 24 patches, two linear layers, before a Llama."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    ids = _ids(LLAVA_TOKENS)
    text = _text(LLAVA_TOKENS) | {"model_type": "llama", "tie_word_embeddings": False}
    ends = {"pad_token_id": ids["<pad>"], "bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"]}
    vision = _vision(image_size=192, patch_size=8) | {"model_type": "clip_vision_model", "projection_dim": 32}
    config = LlavaConfig(
        text_config=text | ends,
        vision_config=vision | {"num_hidden_layers": 3, "hidden_act": "quick_gelu"},
        image_token_index=ids["<image>"],
        image_seq_length=576,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        **ends,
    )
    return _saved(folder, LlavaForConditionalGeneration, config, LLAVA_TOKENS, seed)


TINY_VL: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "gemma3": tiny_gemma3,
        "gemma4": tiny_gemma4,
        "qwen3-vl": tiny_qwen3_vl,
        "qwen2.5-vl": tiny_qwen2_5_vl,
        "smolvlm": tiny_smolvlm,
        "idefics3": tiny_idefics3,
        "llava": tiny_llava,
    }
)
"""One of each kind of tower."""


def _ids(more: tuple[str, ...]) -> dict[str, int]:
    vocabulary: dict[str, int] = tiny_tokenizer(more).get_vocab()
    return vocabulary


def _text(more: tuple[str, ...]) -> dict[str, Any]:
    return {
        "vocab_size": len(_ids(more)),
        "hidden_size": WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": CONTEXT_TOKENS,
        "initializer_range": 0.1,  # wide enough for the positions to tell from one another
    }


def _vision(*, image_size: int, patch_size: int) -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }


def _qwen_vision() -> dict[str, Any]:
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "out_hidden_size": WIDTH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": 0.1,
    }


def _qwen_text() -> dict[str, Any]:
    return _text(QWEN_TOKENS) | {
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": _ids(QWEN_TOKENS)["<|im_end|>"],
        "pad_token_id": 0,
    }


def _qwen_ids() -> dict[str, Any]:
    ids = _ids(QWEN_TOKENS)
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "tie_word_embeddings": True,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": 0,
    }


def _smolvlm_rest() -> dict[str, Any]:
    ids = _ids(SMOLVLM_TOKENS)
    return {
        "text_config": _text(SMOLVLM_TOKENS) | {"model_type": "llama", "pad_token_id": 0},
        "image_token_id": ids["<image>"],
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": ids["<end_of_utterance>"],
        "tie_word_embeddings": True,
    }


def _saved(folder: Path, architecture: Any, config: Any, more: tuple[str, ...], seed: int) -> Path:
    """A base's folder as `ensure_local` gives it, in fp32; what initialises to nought or one is made random, too."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = architecture(config).eval()
        with torch.no_grad():
            for name, parameter in (*model.named_parameters(), *model.named_buffers()):
                if parameter.isinf().any():  # bounds of Gemma 4's clipped layers
                    parameter.copy_(parameter.clamp(-2, 2))
                elif _is_drawn(name) and name in model.state_dict():
                    parameter.copy_(torch.randn_like(parameter) * _spread(parameter) + parameter.eq(1))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tiny_tokenizer(more).save(str(folder / "tokenizer.json"))
    return folder


def _is_drawn(name: str) -> bool:
    return any(part in name for part in ("vision", "visual", "connector", "projector", "per_layer", "layer_scalar"))


def _spread(parameter: Any) -> float:
    """Such that what goes through a layer neither dies nor explodes: 1 over the root of what a unit sums."""
    return 0.2 if parameter.dim() < 2 else float(parameter[0].numel() ** -0.5)
