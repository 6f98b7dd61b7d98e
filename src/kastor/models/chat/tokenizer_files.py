"""The tokenizer files in a base's folder, and the repair of one that was rebuilt from a GGUF; no torch.

transformers rebuilds a byte-level BPE with GPT-2's cut, whatever `tokenizer.ggml.pre` names. Where a model was trained
with another cut, `tokenizer.json` is repaired, and what the first release used stays beside it: models that were tuned
with it are served and tuned further with it.
"""

import filecmp
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import Rendering
from kastor.runtime.atomic import rename_synced

TOKENIZER_FILE = "tokenizer.json"
GPT2 = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
SMOLLM = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, GPT2]}
PRE_TOKENIZERS: Mapping[str, Mapping[str, Any]] = {"default": GPT2, "gpt-2": GPT2, "smollm": SMOLLM}
"""llama.cpp's names -> the same cut as tokenizer.json has it. `smollm` cuts at every `\\p{N}`, then as GPT-2 does
(src/llama-vocab.cpp); so does SmolLM2's own tokenizer.json."""


def first_tokenizer_file(folder: Path) -> Path:
    """Where a converted base keeps the tokenizer of the first release, if that was another one."""
    return folder / f"tokenizer-{Rendering.FIRST}.json"


def tokenizer_file(folder: Path, rendering: Rendering) -> Path:
    """The tokenizer in the base's folder for this rendering; most bases have had one only."""
    first = first_tokenizer_file(folder)
    return first if rendering is Rendering.FIRST and first.is_file() else folder / TOKENIZER_FILE


def repair_tokenizer(folder: Path, pre: str) -> None:
    """Make the rebuilt tokenizer in `folder` cut as `pre` says; the one that was there stays beside it.

    May be interrupted and repeated at any point.

    Raises:
        FailedPrecondition: the model was trained with a cut that is not known here.

    """
    file, first = folder / TOKENIZER_FILE, first_tokenizer_file(folder)
    document = json.loads(file.read_text("utf-8"))
    found = document["pre_tokenizer"] or {}
    if {**GPT2, **found} != GPT2:
        return  # a cut of its own: transformers knows this tokenizer
    wanted = PRE_TOKENIZERS.get(pre)
    if wanted is None:
        raise FailedPrecondition(
            f"The GGUF's tokenizer cuts text as {pre!r} does (tokenizer.ggml.pre), which cannot be rebuilt here; known "
            f"are {', '.join(PRE_TOKENIZERS)}. Take the model from a folder in transformers' format."
        )
    if wanted is GPT2:
        return
    _write(first, file.read_text("utf-8"))
    _write(file, json.dumps(document | {"pre_tokenizer": wanted}, ensure_ascii=False, indent=2))


def is_repaired(folder: Path) -> bool:
    """Whether both tokenizers are in `folder`, that of the first release and the repaired one."""
    first = first_tokenizer_file(folder)
    return first.is_file() and not filecmp.cmp(first, folder / TOKENIZER_FILE, shallow=False)


def _write(file: Path, text: str) -> None:
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    rename_synced(partial, file)
