"""Steps use each example once an epoch; rows hold each example once."""

from hypothesis import given
from hypothesis import strategies as st

from kastor.domain.job import MAX_ROW_TOKENS, total_steps
from kastor.models.chat.render import RenderedExample
from kastor.training.packing import bin_pack, pack, pack_step, step_examples
from kastor.training.schedule import learning_rate

sizes = st.integers(1, 40)


@given(n=sizes, epochs=st.integers(1, 5), batch=st.integers(1, 50), seed=st.integers(0, 2**32))
def test_every_epoch_takes_every_example_once(n: int, epochs: int, batch: int, seed: int) -> None:
    steps = [
        step_examples(step, seed=seed, num_examples=n, num_epochs=epochs, batch_size=batch)
        for step in range(1, total_steps(n, epochs, batch) + 1)
    ]
    assert all(len(step) == batch for step in steps[:-1])
    assert 1 <= len(steps[-1]) <= batch
    stream = [index for step in steps for index in step]
    assert len(stream) == n * epochs
    for epoch in range(epochs):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


def test_the_order_depends_on_the_seed_and_the_epoch_and_on_nothing_else() -> None:
    def epoch(seed: int, number: int) -> list[int]:
        return step_examples(number, seed=seed, num_examples=50, num_epochs=3, batch_size=50)

    assert epoch(1, 2) == epoch(1, 2)
    assert epoch(1, 1) != epoch(1, 2)
    assert epoch(1, 1) != epoch(2, 1)


@given(lengths=st.lists(st.integers(1, 30), max_size=40), budget=st.integers(1, 60))
def test_rows_hold_each_example_once_and_stay_within_the_budget(lengths: list[int], budget: int) -> None:
    rows = bin_pack(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    for row in rows:
        assert len(row) == 1 or sum(lengths[index] for index in row) <= budget


@given(
    examples=st.lists(
        st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=9), min_size=1, max_size=6
    )
)
def test_a_row_predicts_exactly_the_supervised_tokens(examples: list[list[tuple[int, bool]]]) -> None:
    rendered = [RenderedExample([t for t, _ in example], [s for _, s in example]) for example in examples]
    row = pack(rendered)
    assert sum(row.lengths) == len(row.token_ids_T) == len(row.positions_T)
    expected = [token for example in examples for place, (token, learnt) in enumerate(example) if learnt and place]
    assert row.targets_S.tolist() == expected
    assert row.token_ids_T[row.predicting_S + 1].tolist() == expected
    assert (row.positions_T[row.predicting_S] + 1 == row.positions_T[row.predicting_S + 1]).all()


def test_an_example_longer_than_the_budget_has_a_row_of_its_own() -> None:
    long = RenderedExample([1] * (MAX_ROW_TOKENS + 1), [False, *[True] * MAX_ROW_TOKENS])
    short = RenderedExample([1, 2, 3], [False, True, True])
    assert sorted(row.lengths for _, row in pack_step([[short], [long], [short]])) == [(3, 3), (MAX_ROW_TOKENS + 1,)]


@given(total=st.integers(1, 500), peak=st.floats(1e-6, 1))
def test_the_rate_rises_to_the_peak_and_falls_to_a_tenth(total: int, peak: float) -> None:
    rates = [learning_rate(step, total, peak) for step in range(1, total + 1)]
    assert max(rates) == peak
    top = rates.index(peak)
    assert all(a < b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert min(rates) > 0


def test_a_group_stays_together_and_in_order_in_one_row() -> None:
    one, two, three = (RenderedExample([n] * n, [True] * n) for n in (5, 4, 3))
    rows = pack_step([[one, three], [two], [three, two]], budget=12)
    assert [(indices, row.lengths) for indices, row in rows] == [([0, 1], (5, 3, 4)), ([2], (3, 4))]
