"""Writes tokenizer.json into GGUF: byte-level BPE with merges, or BPE over characters with scores, as in Gemma."""

from collections.abc import Mapping, Sequence
from typing import Any

from gguf import TokenType

from kastor.domain.errors import Unimplemented

INSTEAD = (
    "Export it as merged; llama.cpp's convert_hf_to_gguf.py converts such a folder if it knows its architecture and "
    "tokenizer."
)
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
SPACES_REPLACED = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
NO_SCORE = -1e6  # of a token that no merge produces


def add_tokenizer(writer: Any, tokenizer: Mapping[str, Any], config: Any, template: str | None) -> None:  # noqa: ANN401
    """Write tokens, merges or scores, and the tokens that begin and end a text (`writer` is a GGUFWriter).

    Raises:
        Unimplemented: the tokenizer is of another kind.

    """
    model = tokenizer["model"]
    if model.get("type") != "BPE":
        raise Unimplemented(f"A tokenizer of the type {model.get('type')} cannot be written as GGUF here. {INSTEAD}")
    merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    texts, kinds = _tokens(tokenizer, config.vocab_size)
    if tokenizer.get("normalizer"):
        _check_scored(tokenizer, merges)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_scores(scores(texts, merges))
        begins = "<bos>" in str(tokenizer.get("post_processor"))
    else:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre_tokenizer(tokenizer["pre_tokenizer"]))
        writer.add_token_merges([" ".join(merge) for merge in merges])
        begins = False
    writer.add_token_list(texts)
    writer.add_token_types(kinds)
    for add, token in (
        (writer.add_bos_token_id, config.bos_token_id),
        (writer.add_eos_token_id, config.eos_token_id),
        (writer.add_pad_token_id, config.pad_token_id),
    ):
        if isinstance(token, int):
            add(token)
    writer.add_add_bos_token(begins)
    writer.add_add_space_prefix(False)
    if template is not None:
        writer.add_chat_template(template)


def _tokens(tokenizer: Mapping[str, Any], vocab_size: int) -> tuple[list[str], list[TokenType]]:
    """Text and kind of each token."""
    model, added = tokenizer["model"], {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    names = {index: token for token, index in model["vocab"].items()}
    names |= {index: entry["content"] for index, entry in added.items()}
    texts, kinds = [], []
    for index in range(vocab_size):
        text = names.get(index, f"[PAD{index}]")
        texts.append(text)
        if model.get("byte_fallback") and text == model.get("unk_token"):
            kinds.append(TokenType.UNKNOWN)
        elif index in added:
            kinds.append(TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED)
        elif model.get("byte_fallback") and len(text) == len("<0x00>") and text.startswith("<0x"):
            kinds.append(TokenType.BYTE)
        else:
            kinds.append(TokenType.NORMAL if index in names else TokenType.UNUSED)
    return texts, kinds


def scores(texts: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Scores by which llama.cpp merges pieces in the order of `merges`: the earlier, the higher.

    >>> scores(["a", "b", "ab", "aba"], [("a", "b"), ("ab", "a")])
    [-1000000.0, -1000000.0, -0.0, -1.0]
    """
    ranks: dict[str, int] = {}
    for merge in merges:
        ranks.setdefault("".join(merge), len(ranks))
    return [-float(ranks[text]) if text in ranks else NO_SCORE for text in texts]


def _check_scored(tokenizer: Mapping[str, Any], merges: Sequence[tuple[str, ...]]) -> None:
    """Check that scores can express the merges: those that produce the same token must be adjacent."""
    products = ["".join(merge) for merge in merges]
    groups = 1 + sum(one != other for one, other in zip(products, products[1:], strict=False))
    sound = tokenizer["model"].get("byte_fallback") and tokenizer["normalizer"] == SPACES_REPLACED
    if not sound or groups > len(set(products)):
        raise Unimplemented(f"The tokenizer's normalizer or merges cannot be written as GGUF here. {INSTEAD}")


def pre_tokenizer(config: Mapping[str, Any] | None) -> str:
    """llama.cpp's name for the pre-tokenizer in tokenizer.json.

    The file decides, not the model family: another pre-tokenizer would produce tokens that were never trained on.

    Raises:
        Unimplemented: the pre-tokenizer has no name here.

    """
    parts = list((config or {}).get("pretokenizers", [config or {}]))
    *before, last = parts
    plain = last.get("type") == "ByteLevel" and not last.get("add_prefix_space") and last.get("use_regex", True)
    if plain and not before:
        return "gpt-2"
    if plain and before == [{"type": "Digits", "individual_digits": True}]:
        return "smollm"
    raise Unimplemented(f"A tokenizer that cuts words by {[part.get('type') for part in parts]} has no name. {INSTEAD}")
