"""Model families as values: how turns are written, which token ends them, where LoRA goes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from kastor.domain.job import Rendering
from kastor.domain.tools import ToolCallSupport
from kastor.domain.vision import VisionSpec
from kastor.models.chat.tool_format import GEMMA_JSON, HERMES, LLAMA_JSON, ToolFormat
from kastor.models.vision import specs

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
    vision: VisionSpec | None = None  # a family without reads text only
    functions: ToolFormat | None = None  # a family without cannot call any
    beginning: str = ""  # control token before all turns
    preface: str = ""  # text at the head of the system turn
    user_closing: str | None = None  # what ends a turn that is not the model's, where that is not `closing`
    guarded: tuple[str, ...] = ()  # further tokens that no text may spell

    @property
    def calling(self) -> ToolCallSupport | None:
        """What its function calls can hold, if it can call any."""
        return None if self.functions is None else self.functions.calling

    @property
    def own_strings(self) -> tuple[str, ...]:
        """All strings in which control tokens are recognised."""
        style, vision = self.functions, self.vision
        found = [*self.opening.values(), self.closing, self.separator, self.beginning, *self.guarded]
        found += [vision.placeholder, vision.before, vision.after, *tile_markers(vision)] if vision else []
        return (*found, *style.tags, style.response_opening) if style else tuple(found)


def tile_markers(vision: VisionSpec) -> list[str]:
    """What stands before the tiles of its pictures, of which there are 4 x 4 at most."""
    return [vision.tile_mark(row, column) for row in range(1, 5) for column in range(1, 5)]


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

SMOLLM2_PLAIN = replace(SMOLLM2, name="smollm2-plain", default_system=None)  # models tuned on it: see `rendering_of`

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
    guarded=("<think>", "</think>"),
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
    vision=specs.NANO,
)

GEMMA3_VL = replace(GEMMA3, name="gemma3-vl", vision=specs.GEMMA3)  # 4b and larger; the smaller ones read only
GEMMA4 = Family(
    name="gemma4",  # the large ones
    opening=MappingProxyType(
        {
            "system": "<|turn>system\n",
            "user": "<|turn>user\n",
            # no thinking, as with Qwen3: its template writes the empty channel before the answer that is asked for
            "model": "<|turn>model\n<|channel>thought\n<channel|>",
        }
    ),
    closing="<turn|>",
    separator="\n",
    default_system=None,
    lora_targets=LLAMA_LINEARS,
    vision=specs.GEMMA4,
    beginning="<bos>",
    guarded=("<|think|>", "<|tool>", "<tool|>", "<|tool_call>", "<tool_call|>", "<|tool_response>", '<|"|>'),
)
GEMMA4_E = replace(
    GEMMA4,
    name="gemma4-e",  # E2B and E4B: unless told to, they never think
    opening=MappingProxyType({**GEMMA4.opening, "model": "<|turn>model\n"}),
)

QWEN3_VL = replace(QWEN3_INSTRUCT, name="qwen3-vl", vision=specs.QWEN3_VL)
QWEN2_5_VL = replace(
    QWEN3_INSTRUCT, name="qwen2.5-vl", default_system="You are a helpful assistant.", vision=specs.QWEN2_5_VL
)

SMOLVLM = Family(
    name="smolvlm",
    opening=MappingProxyType({"system": "System:", "user": "User:", "model": "Assistant:"}),
    closing="<end_of_utterance>",
    separator="\n",
    default_system=None,
    lora_targets=LLAMA_LINEARS,
    vision=specs.SMOLVLM,
    beginning="<|im_start|>",
)
IDEFICS3 = replace(SMOLVLM, name="idefics3", vision=replace(specs.SMOLVLM, pretrained="idefics3"))

LLAVA = Family(
    name="llava",  # 1.5, on Vicuna
    opening=MappingProxyType({"system": "", "user": "USER: ", "model": "ASSISTANT:"}),
    closing="</s>",
    separator="",
    default_system=None,
    lora_targets=LLAMA_LINEARS,
    vision=specs.LLAVA,
    beginning="<s>",
    user_closing=" ",
)

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        family.name: family
        for family in (
            *(SMOLLM2, SMOLLM2_PLAIN, QWEN3, QWEN3_INSTRUCT, LLAMA3, GEMMA3),
            *(NANO_VL, GEMMA3_VL, GEMMA4, GEMMA4_E, QWEN3_VL, QWEN2_5_VL, SMOLVLM, IDEFICS3, LLAVA),
        )
    }
)
"""By name, as the catalog has it: those that read text, then those that see."""


def rendering_of(family: Family, rendering: Rendering) -> Family:
    """The family as which a model is talked to that was tuned with this rendering.

    Without SmolLM2's own system instruction its tuned models learn more from few rows (docs/log.md).
    """
    return SMOLLM2_PLAIN if family.name == SMOLLM2.name and rendering is Rendering.TUNED else family
