"""What pictures tell of answers: found where there is something, and nothing where there is not."""

import numpy as np
import pytest

from kastor.domain.content import Media
from kastor.models.chat.render import PictureSpan, RenderedExample
from kastor.training.projector_init import (
    GAIN,
    MIN_OBSERVATIONS,
    PENALTIES,
    Alignment,
    Floats,
    collect_observations,
    fit_alignment,
    next_answer,
)

CHANNELS, WIDTH = 24, 16
LABELS = np.random.default_rng(0).standard_normal((3, WIDTH))


Pairs = dict[str, tuple[Floats, Floats]]


def cloths(count: int, seed: int, *, signal: float = 4.0) -> tuple[Pairs, list[int]]:
    """Means of pictures whose label moves one channel each, with the labels' embeddings, and the labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 3, count)
    pictures = random.standard_normal((count, CHANNELS)) * np.linspace(0.2, 5, CHANNELS) + 7
    pictures[np.arange(count), labels + 20] += signal * 5
    pairs = zip(pictures, LABELS[labels], strict=True)
    return {f"{number}": pair for number, pair in enumerate(pairs)}, labels.tolist()


def parts(pairs: Pairs) -> tuple[Floats, Floats]:
    pictures, answers = zip(*pairs.values(), strict=True)
    return np.stack(pictures), np.stack(answers)


def told(found: Alignment, pairs: Pairs) -> Floats:
    """The expected deviation of the answers from their average."""
    return (parts(pairs)[0] @ found.matrix_CW + found.offset_W) / GAIN


def right(found: Alignment, pairs: Pairs, labels: list[int]) -> float:
    """How many of other pictures the nearest embedding is right about."""
    centred = LABELS - LABELS.mean(axis=0)
    nearest = np.square(told(found, pairs)[:, None] - centred).sum(axis=2).argmin(axis=1)
    return float(np.mean(nearest == labels))


def test_what_pictures_tell_holds_for_others() -> None:
    found = fit_alignment(cloths(128, seed=1)[0])
    assert found is not None
    assert right(found, *cloths(600, seed=2)) > 0.9


def test_the_share_that_is_explained_is_that_of_pictures_it_was_not_fitted_on() -> None:
    found = fit_alignment(cloths(400, seed=1, signal=0.7)[0])
    others, _ = cloths(4000, seed=2, signal=0.7)
    assert found is not None
    given = parts(others)[1] - parts(others)[1].mean(axis=0)
    true = 1 - np.square(given - told(found, others)).sum() / np.square(given).sum()
    assert 0.1 < true < 0.9
    assert found.explained == pytest.approx(true, abs=0.06)


def test_what_the_others_tell_of_a_picture_is_what_a_fit_without_it_tells() -> None:
    pairs, _ = cloths(40, seed=3)
    found = fit_alignment(pairs)
    assert found is not None
    x, y = parts(pairs)
    deviation = x.std(axis=0)
    x = (x - x.mean(axis=0)) / deviation

    def fitted(x: Floats, y: Floats, penalty: float) -> Floats:
        return np.linalg.solve(x.T @ x + penalty * np.eye(CHANNELS), x.T @ (y - y.mean(axis=0)))

    chosen = found.matrix_CW * deviation[:, None] / GAIN
    penalty = min(PENALTIES, key=lambda tried: float(np.abs(fitted(x, y, tried) - chosen).max()))
    full = told(found, pairs)
    for row, key in enumerate(pairs):
        others = np.arange(len(x)) != row
        centre, average = x[others].mean(axis=0), y[others].mean(axis=0)
        without = average + (x[row] - centre) @ fitted(x[others] - centre, y[others], penalty) - y.mean(axis=0)
        np.testing.assert_allclose(full[row] + found.corrections[key] / GAIN, without, atol=1e-9)


@pytest.mark.parametrize("nothing", ["few", "one answer", "chance", "one picture"])
def test_where_pictures_tell_nothing_there_is_no_map(nothing: str) -> None:
    pairs, _ = cloths(20 if nothing == "few" else 128, seed=4)
    (one, said), random = pairs["0"], np.random.default_rng(5)
    if nothing == "one answer":
        pairs = {key: (picture, said) for key, (picture, _) in pairs.items()}
    elif nothing == "chance":
        pairs = {key: (picture, LABELS[random.integers(0, 3)]) for key, (picture, _) in pairs.items()}
    elif nothing == "one picture":
        pairs = {key: (one, answer) for key, (_, answer) in pairs.items()}
    assert fit_alignment(pairs) is None


def test_chance_is_not_taken_for_something_told_however_few_there_are() -> None:
    for seed in range(20):
        pairs, _ = cloths(MIN_OBSERVATIONS, seed=seed)
        random = np.random.default_rng([1, seed])
        assert (
            fit_alignment({key: (picture, LABELS[random.integers(0, 3)]) for key, (picture, _) in pairs.items()})
            is None
        )


def test_channels_that_never_change_do_no_harm() -> None:
    pairs, _ = cloths(128, seed=1)
    dead = {key: (np.where(np.arange(CHANNELS) < 5, 3.0, picture), said) for key, (picture, said) in pairs.items()}
    found = fit_alignment(dead)
    assert found is not None
    assert np.isfinite(found.matrix_CW).all() and np.abs(found.matrix_CW[:5]).max() < 1e-9


def example(answers: list[int], keys: list[str]) -> RenderedExample:
    """Pictures of two tokens each, a question, and an answer with the token that ends it."""
    pictures = tuple(PictureSpan(Media("image/png", key), 0, 2 * at, 2, key=key) for at, key in enumerate(keys))
    before = [0] * (2 * len(keys)) + [8]
    return RenderedExample([*before, *answers, 9], [False] * len(before) + [True] * (len(answers) + 1), pictures)


def test_a_medium_is_one_observation_however_many_pictures_and_rows_it_has() -> None:
    features = {(key, index): np.full((2, 3), 10.0 * at + index) for at, key in enumerate("ab") for index in range(3)}
    examples = [
        example([1], ["a"]),
        example([3, 5], ["a", "b"]),
        example([7], ["c"]),
        RenderedExample([4, 9], [True, True]),
    ]
    found = collect_observations(examples, features, lambda ids: np.array([[float(i)] for i in ids]))
    assert {key: picture.tolist() for key, (picture, _) in found.items()} == {"a": [1.0] * 3, "b": [11.0] * 3}
    assert {key: answer.tolist() for key, (_, answer) in found.items()} == {"a": [2.5], "b": [4.0]}


def test_the_answer_to_a_picture_is_the_next_one_after_it() -> None:
    turns = RenderedExample([1, 2, 3, 9, 4, 5, 9], [False, False, True, True, False, True, True])
    assert [next_answer(turns, start) for start in (0, 4, 6)] == [[3], [5], []]
