"""The numbers that the demo learns from and asks for."""

from kastor.cli.demos.numbers import GREEDY, Comparison, Pair, number_pairs


def test_there_are_15_pairs_to_learn_from_and_64_to_ask() -> None:
    assert len(number_pairs("numbers.jsonl")) == 15
    assert len(number_pairs("numbers-held-out.jsonl")) == 64


def test_no_held_out_input_is_learnt_from() -> None:
    learnt = {pair.text_input for pair in number_pairs("numbers.jsonl")}
    asked = [
        pair.text_input for name in ("numbers-held-out.jsonl", "numbers-elsewhere.jsonl") for pair in number_pairs(name)
    ]
    assert not learnt & set(asked)
    assert len(set(asked)) == len(asked)


def test_every_pair_of_digits_is_a_number_and_the_next() -> None:
    for pair in number_pairs("numbers.jsonl") + number_pairs("numbers-held-out.jsonl"):
        if any(c.isdigit() for c in pair.text_input):
            assert int(pair.output.replace(",", "")) == int(pair.text_input.replace(",", "")) + 1


def test_an_answer_is_right_to_the_letter() -> None:
    pair = Pair("forty one", "forty two")
    assert Comparison(pair, "It is forty two.", " forty two\n").tuned_right
    assert not Comparison(pair, "It is forty two.", "forty two").base_right
    assert GREEDY.temperature == 0
