"""Model families as values: how turns are written, which token ends them, where LoRA goes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kastor.domain.functions import Calling
from kastor.domain.vision import Vision
from kastor.models import visions
from kastor.models.functions import GEMMA_JSON, HERMES, LLAMA_JSON, FunctionStyle

LLAMA_LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models is talked to.

    A turn is written `opening[role] text closing separator`, whether it is served, learnt or history; `opening` and
    `closing` hold control tokens and are, with the tags of functions, the only strings in which control tokens are
    recognised. `closing` must be a single token: it is the last supervised token of an answer, and the token that ends
    generation. A family that opens no system turn has the system instruction at the head of the first user turn.
    """

    name: str
    opening: Mapping[str, str]  # system (not in all) | user | model -> what stands before the text
    closing: str
    separator: str  # stands between a closed turn and the next opening
    default_system: str | None  # written when the caller gives no system instruction
    lora_targets: tuple[str, ...]
    vision: Vision | None = None  # a family without reads text only
    functions: FunctionStyle | None = None  # a family without cannot call any
    beginning: str = ""  # control token before all turns
    preface: str = ""  # text at the head of the system turn

    @property
    def calling(self) -> Calling | None:
        """What its function calls can hold, if it can call any."""
        return None if self.functions is None else self.functions.calling

    @property
    def own_strings(self) -> tuple[str, ...]:
        """All strings in which control tokens are recognised."""
        style, vision = self.functions, self.vision
        found = [*self.opening.values(), self.closing, self.separator, self.beginning]
        found += [vision.placeholder, vision.before, vision.after] if vision else []
        return (*found, *style.tags, style.response_opening) if style else tuple(found)


SMOLLM2 = Family(
    name="smollm2",
    opening=MappingProxyType(
        {"system": "<|im_start|>system\n", "user": "<|im_start|>user\n", "model": "<|im_start|>assistant\n"}
    ),
    closing="<|im_end|>",
    separator="\n",
    default_system="You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    lora_targets=LLAMA_LINEARS,
    functions=HERMES,
)

QWEN3 = Family(
    name="qwen3",
    opening=MappingProxyType(
        {
            "system": "<|im_start|>system\n",
            "user": "<|im_start|>user\n",
            # no thinking: its template writes the empty block before the answer that is asked for, and drops it from
            # history; here it stays, or no row could teach two answers as they are served
            "model": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
        }
    ),
    closing="<|im_end|>",
    separator="\n",
    default_system=None,
    lora_targets=LLAMA_LINEARS,
    functions=HERMES,
)

QWEN3_INSTRUCT = replace(
    QWEN3,
    name="qwen3-instruct",  # of 2507 and later: they never think, and know no block for it
    opening=MappingProxyType({**QWEN3.opening, "model": "<|im_start|>assistant\n"}),
)

LLAMA3 = Family(
    name="llama3",
    opening=MappingProxyType(
        {
            "system": "<|start_header_id|>system<|end_header_id|>\n\n",
            "user": "<|start_header_id|>user<|end_header_id|>\n\n",
            "model": "<|start_header_id|>assistant<|end_header_id|>\n\n",
        }
    ),
    closing="<|eot_id|>",
    separator="",
    default_system="",
    lora_targets=LLAMA_LINEARS,
    functions=LLAMA_JSON,
    beginning="<|begin_of_text|>",
    # the day that the template of 3.1 has: with today's, a model would not be served what it was trained on
    preface="Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n",
)

GEMMA3 = Family(
    name="gemma3",
    opening=MappingProxyType({"user": "<start_of_turn>user\n", "model": "<start_of_turn>model\n"}),
    closing="<end_of_turn>",
    separator="\n",
    default_system=None,
    lora_targets=LLAMA_LINEARS,
    functions=GEMMA_JSON,
    beginning="<bos>",
)

NANO_VL = replace(
    SMOLLM2,
    name="kastor-nano-vl",
    vision=visions.NANO,
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {family.name: family for family in (SMOLLM2, NANO_VL, QWEN3, QWEN3_INSTRUCT, LLAMA3, GEMMA3)}
)
