"""Model families as values: how turns are written, which token ends them, where LoRA goes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kastor.domain.vision import Vision
from kastor.models import visions

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models is talked to.

    A turn is written `opening[role] text closing separator`; `opening` and `closing` hold control tokens and are the
    only strings in which control tokens are recognised. `closing` must be a single token: it is the last supervised
    token of an answer, and the token that ends generation.
    """

    name: str
    opening: Mapping[str, str]  # system | user | model -> what stands before the text
    closing: str
    separator: str  # stands between a closed turn and the next opening
    default_system: str | None  # written when the caller gives no system instruction
    lora_targets: tuple[str, ...]
    vision: Vision | None = None  # a family without reads text only


SMOLLM2 = Family(
    name="smollm2",
    opening=MappingProxyType(
        {"system": "<|im_start|>system\n", "user": "<|im_start|>user\n", "model": "<|im_start|>assistant\n"}
    ),
    closing="<|im_end|>",
    separator="\n",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    lora_targets=LLAMA_LINEARS,
)

NANO_VL = replace(
    SMOLLM2,
    name="kastor-nano-vl",
    vision=visions.NANO,
)

FAMILIES: Mapping[str, Family] = MappingProxyType({family.name: family for family in (SMOLLM2, NANO_VL)})
