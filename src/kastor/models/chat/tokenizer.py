"""A family's tokenizer, twice: one that recognises control tokens, and one that takes all of them for plain text."""

import json

from tokenizers import AddedToken, Tokenizer

from kastor.models.chat.families import Family


def load_tokenizers(text: str, family: Family) -> tuple[Tokenizer, Tokenizer]:
    """The recognising and the plain tokenizer that `text`, a tokenizer.json, describes.

    Some tokens of a family's own strings are not marked as special in some tokenizers (`<think>`, `<tool_call>` of
    Qwen), and would be recognised in any text; the plain one is told that they are. Where the tags of functions are
    marked, the recognising one is told that they are not: they belong to the text of an answer.
    """
    recognising, plain = Tokenizer.from_str(text), Tokenizer.from_str(text)
    plain.encode_special_tokens = True
    added = recognising.get_added_tokens_decoder().values()
    own = "\n".join(family.own_strings)
    unmarked = [token.content for token in added if not token.special and token.content.strip()]
    plain.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in unmarked if one in own])
    tags = set(family.functions.tags) if family.functions else set()
    if tags & {token.content for token in added if token.special}:
        recognising = Tokenizer.from_str(_unmarked(text, tags))
    return recognising, plain


def _unmarked(text: str, tags: set[str]) -> str:
    document = json.loads(text)
    for token in document["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in tags
    return json.dumps(document, ensure_ascii=False)
