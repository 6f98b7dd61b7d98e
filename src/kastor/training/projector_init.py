"""What a picture as a whole tells of the answer to it, by ridge regression: what a job's fresh projector begins with.

Layers that begin at random spend a short job on finding out which channels of the tower matter. A linear regression
finds it before the first step: with X the standardised means of pictures' features, Y the mean embeddings of the
answers to them less their average, and M the minimum of |X M - Y|² + p |M|²,

    expected embedding of the answer - average = (mean of the picture's features - centre) / deviation @ M

which, times `GAIN`, is what is added to the picture's tokens.

The penalty p is that of a grid whose leave-one-out error is least. For ridge regression that takes no refitting: the
error of a left-out row is its residual / (1 - its leverage) (Allen 1974, PRESS).

Of the pictures that it was fitted on the map tells too much. A model that learns from them to trust it trusts it too
far with others; so in training they are told what the fit without them would tell (stacking: Wolpert 1992).

Shapes: N observations, C channels of the features, W width of the language model.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kastor.models.chat.render import RenderedExample

MIN_OBSERVATIONS = 32
"""Of fewer the leave-one-out error itself says little."""

PENALTIES = [10 ** (power / 5) for power in range(26)]

MIN_EXPLAINED = 0.05
"""Share of the answers' variance, left-out ones; below, the regression has found nothing worth beginning with."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Alignment:
    """The affine map from the mean of a picture's features to what is added to its tokens."""

    matrix_CW: Floats
    offset_W: Floats
    corrections: dict[str, Floats]  # by medium that it was fitted on: what the fit without it adds, less what this does
    explained: float  # share of the variance of left-out answers


GAIN = 4.0
"""The expected deviation of the answer from the average is added so many times: it is to stand out."""


def collect_observations(
    examples: Iterable[RenderedExample],
    features: Mapping[tuple[str, int], NDArray[Any]],
    embedded: Callable[[Sequence[int]], NDArray[Any]],
) -> dict[str, tuple[Floats, Floats]]:
    """For each medium, by key, the mean of its pictures' features, and the mean embedding of the answers to it.

    One observation a medium, however many pictures it has and rows ask about it: what is alike must not be left out one
    by one. Segments of one film are media of their own, so of films the left-out error promises too much. `features`
    are those of pictures (tokens, C) by key and index, `embedded` gives embeddings (tokens, W).
    """
    seen: dict[str, list[Floats]] = {}
    for (key, _), features_NC in features.items():
        seen.setdefault(key, []).append(features_NC.astype(np.float64).mean(axis=0))
    told: dict[str, list[Floats]] = {}
    for example in examples:
        starts = {picture.key: picture.start for picture in reversed(example.pictures)}
        for key, start in starts.items():
            if key in seen and (answer := next_answer(example, start)):
                told.setdefault(key, []).append(embedded(answer).astype(np.float64).mean(axis=0))
    return {key: (np.mean(seen[key], axis=0), np.mean(answers, axis=0)) for key, answers in told.items()}


def next_answer(example: RenderedExample, start: int) -> list[int]:
    """The tokens of the first answer after the place `start`, without the one that ends it.

    >>> next_answer(RenderedExample([7, 8, 1, 2, 9, 3, 9], [False, False, True, True, True, False, True]), 1)
    [1, 2]
    """
    rest = zip(example.token_ids[start:], example.supervised[start:], strict=True)
    answer = [token for token, _ in takewhile(_is_learnt, dropwhile(lambda pair: not _is_learnt(pair), rest))]
    return answer[:-1]


def _is_learnt(pair: tuple[int, bool]) -> bool:
    return pair[1]


def fit_alignment(observations: Mapping[str, tuple[Floats, Floats]]) -> Alignment | None:
    """Fitted on means of features and mean embeddings of answers; `None` where they tell nothing of one another."""
    if len(observations) < MIN_OBSERVATIONS:
        return None
    x_NC, y_NW = (np.stack(part) for part in zip(*observations.values(), strict=True))
    if not np.ptp(y_NW, axis=0).max() > 1e-6:
        return None  # one answer to all
    centre_C, deviation_C = x_NC.mean(axis=0), x_NC.std(axis=0)
    # a channel that hardly changes tells nothing, and is not blown up
    deviation_C = np.maximum(deviation_C, max(1e-6, 1e-2 * float(deviation_C.max())))
    x_NC, y_NW = (x_NC - centre_C) / deviation_C, y_NW - y_NW.mean(axis=0)
    map_CW, left_out_NW = _fitted(x_NC, y_NW)
    explained = 1 - _squared(y_NW - left_out_NW) / _squared(y_NW)
    if explained < MIN_EXPLAINED:
        return None
    matrix_CW = GAIN * map_CW / deviation_C[:, None]
    beyond_NW = GAIN * (left_out_NW - x_NC @ map_CW)
    return Alignment(matrix_CW, -centre_C @ matrix_CW, dict(zip(observations, beyond_NW, strict=True)), explained)


def _fitted(x_NC: Floats, y_NW: Floats) -> tuple[Floats, Floats]:
    """With the best penalty: the map (C, W) fitted on all rows, and what that without a row tells of it, (N, W)."""
    rows_NR, singular_R, channels_RC = np.linalg.svd(x_NC, full_matrices=False)
    along_RW = rows_NR.T @ y_NW

    def left_out(penalty: float) -> Floats:
        kept_R = singular_R**2 / (singular_R**2 + penalty)
        leverage_N = np.square(rows_NR) @ kept_R + 1 / len(x_NC)  # that of the average as well
        error_NW: Floats = (y_NW - rows_NR @ (kept_R[:, None] * along_RW)) / (1 - leverage_N)[:, None]
        return y_NW - error_NW

    penalty = min(PENALTIES, key=lambda tried: _squared(y_NW - left_out(tried)))
    return channels_RC.T @ ((singular_R / (singular_R**2 + penalty))[:, None] * along_RW), left_out(penalty)


def _squared(x: Floats) -> float:
    return float(np.square(x).sum())
