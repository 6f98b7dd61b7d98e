"""What is sent of an answer: whole characters, and nothing of a stop sequence."""

from hypothesis import given
from hypothesis import strategies as st

from kastor.serving.builtin.detokenizer import Detokenizer, StopSequenceFilter
from support.tiny_models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
TOKENIZER.encode_special_tokens = True  # control tokens in a text are plain text


def pieces(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], StopSequenceFilter]:
    writer = StopSequenceFilter(Detokenizer(TOKENIZER.decode), stops)
    said = []
    for token in TOKENIZER.encode(text).ids:
        said.append(writer.push(token))
        if writer.stopped:
            return said, writer
    return [*said, writer.end()], writer


@given(st.text())
def test_the_pieces_of_any_text_are_the_text(text: str) -> None:
    assert "".join(pieces(text)[0]) == text.rstrip("\N{REPLACEMENT CHARACTER}")


def test_half_a_character_is_never_sent() -> None:
    said, _ = pieces("a😀é")
    assert [piece for piece in said if piece] == ["a", "😀", "é"]


def test_half_a_character_at_the_end_is_dropped() -> None:
    writer = StopSequenceFilter(Detokenizer(TOKENIZER.decode))
    said = [writer.push(token) for token in TOKENIZER.encode("a😀").ids[:-1]]
    assert "".join([*said, writer.end()]) == "a"


def test_bytes_that_never_become_a_character_do_not_hold_up_the_rest() -> None:
    writer = StopSequenceFilter(Detokenizer(TOKENIZER.decode))
    broken = TOKENIZER.encode("😀").ids[1]  # a continuation byte without a beginning
    said = [writer.push(token) for token in [broken] * 8 + TOKENIZER.encode("then text").ids]
    assert "".join(said).endswith("then text")


def test_a_stop_sequence_over_several_tokens_is_never_sent_in_part() -> None:
    said, writer = pieces("the answer. ENDING", stops=("ENDED", "ENDING"))
    assert "".join(said) == "the answer. "
    assert writer.stopped


def test_what_looked_like_a_stop_sequence_is_sent_once_it_is_not() -> None:
    said, writer = pieces("ENDE", stops=("ENDED",))
    assert said[:-1] == ["", "", "", ""]
    assert said[-1] == "ENDE"
    assert not writer.stopped


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3))
def test_text_ends_before_the_first_stop_sequence(text: str, stops: list[str]) -> None:
    said, writer = pieces(text, tuple(stops))
    ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    sent = "".join(said)
    assert writer.stopped == bool(ends)
    assert text.startswith(sent)
    assert not any(stop in sent for stop in stops)
    if not ends:
        assert sent == text
