"""Fresh held-out numbers for `bench.numbers`."""

from collections import Counter

import pytest
from bench.number_draws import draw, kind, length

from kastor.cli.demos.numbers import HELD_OUT_FILE, OTHERS_FILE, TRAINING_FILE, number_pairs

HELD_OUT = number_pairs(HELD_OUT_FILE)
KNOWN = {pair.text_input for name in (TRAINING_FILE, HELD_OUT_FILE, OTHERS_FILE) for pair in number_pairs(name)}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_draw_has_as_many_of_each_kind_as_the_demo_and_none_that_is_known(number: int) -> None:
    drawn = draw(number, HELD_OUT, KNOWN)
    assert Counter(kind(pair.text_input) for pair in drawn) == Counter(kind(pair.text_input) for pair in HELD_OUT)
    assert not {pair.text_input for pair in drawn} & KNOWN
    assert draw(number, HELD_OUT, KNOWN) == drawn


def test_no_number_is_in_two_draws() -> None:
    inputs = [pair.text_input for number in (1, 2, 3) for pair in draw(number, HELD_OUT, KNOWN)]
    assert len(set(inputs)) == 3 * len(HELD_OUT)


def test_lengths_stay_where_there_are_such_numbers() -> None:
    two_digits = [pair for pair in draw(2, HELD_OUT, KNOWN) if kind(pair.text_input) == "digits"]
    assert min(length(pair.text_input) for pair in two_digits) == 2  # those of one digit are used up
    assert Counter(map(length, (pair.text_input for pair in HELD_OUT if kind(pair.text_input) == "thousands"))) == (
        Counter(
            map(length, (pair.text_input for pair in draw(3, HELD_OUT, KNOWN) if kind(pair.text_input) == "thousands"))
        )
    )


def test_the_right_answer_of_a_drawn_number_is_the_next_one() -> None:
    by_input = {pair.text_input: pair.output for number in range(1, 4) for pair in draw(number, HELD_OUT, KNOWN)}
    for text, output in by_input.items():
        if kind(text) != "words":
            assert int(output.replace(",", "")) == int(text.replace(",", "")) + 1
    followed = [output for output in by_input.values() if output in by_input]
    assert all(by_input[output] != output for output in followed)
