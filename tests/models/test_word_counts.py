"""Counting tokens by words gives what tokenising gives, for every text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from kastor.models.chat.token_count import CachedTokenCounter, splits_at_spaces
from support.tiny_models import tiny_tokenizer


def plain_tokenizer() -> Tokenizer:
    tokenizer = tiny_tokenizer()
    tokenizer.encode_special_tokens = True
    return tokenizer


def with_digits() -> Tokenizer:
    tokenizer = plain_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


TOKENIZERS = (plain_tokenizer(), with_digits())
COUNTED = tuple(CachedTokenCounter(tokenizer) for tokenizer in TOKENIZERS)  # remember words from one text to the next
pieces = st.sampled_from(
    [
        "the",
        "cat",
        "3",
        "42",
        " ",
        "  ",
        "\n",
        "\t",
        " \n",
        "'s",
        ".",
        '"',
        "日本",
        "é",
        "\0",
        "\u3000",
        "\x1c",
        "<|im_end|>",
    ]
)
texts = st.lists(st.one_of(pieces, st.text(max_size=3)), max_size=20).map("".join)


@given(st.lists(texts, max_size=5), st.integers(0, 1))
def test_words_have_as_many_tokens_as_their_text(held: list[str], which: int) -> None:
    exact = [len(one.ids) for one in TOKENIZERS[which].encode_batch(held, add_special_tokens=False)]
    assert COUNTED[which].counts(held) == exact
    assert COUNTED[which].counts(held) == exact  # from memory


def test_a_zero_character_is_no_place_to_cut() -> None:
    counted, tokenizer = CachedTokenCounter(plain_tokenizer()), plain_tokenizer()
    for text in ("the", "'s", "the\0's", "the\0's"):
        assert counted.counts([text]) == [len(tokenizer.encode(text, add_special_tokens=False))]


def test_long_blanks_take_no_longer_than_other_texts() -> None:
    text = "a" + " " * 300_000 + "b"
    assert CachedTokenCounter(plain_tokenizer()).counts([text]) == [len(plain_tokenizer().encode(text))]


@pytest.mark.parametrize("which", ["normalised", "prefixed", "no cutting", "an added word"])
def test_a_tokenizer_of_another_kind_is_asked_itself(which: str) -> None:
    tokenizer = plain_tokenizer()
    if which == "normalised":
        tokenizer.normalizer = normalizers.NFKC()
    elif which == "prefixed":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    elif which == "no cutting":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    else:
        tokenizer.add_tokens([AddedToken("the cat")])
    assert not splits_at_spaces(tokenizer)
    text = "see the cat here"
    assert CachedTokenCounter(tokenizer).counts([text]) == [len(tokenizer.encode(text, add_special_tokens=False))]


def test_a_model_that_is_no_byte_level_bpe_is_asked_itself() -> None:
    assert not splits_at_spaces(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")))
