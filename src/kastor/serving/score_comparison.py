"""Compares the scores of any engine with the trainer's: the part of a certificate that knows no engine.

The trainer's log-probabilities come as golden examples. The engine is asked through `kastor.serving.engine.Scorer`, so
the comparison is the same for the built-in engine in this process, for one behind a socket, and for any other.

Shapes: S supervised tokens of an example.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from kastor.domain.adapter_ref import AdapterRef
from kastor.domain.certificate import Distance, GoldenRow, Rounding, Tolerance
from kastor.domain.errors import Internal
from kastor.models.chat.render import RenderedExample
from kastor.serving.engine import Scorer, ScoreRequest

EXACT = Tolerance(largest=0.002, mean=0.0002)
"""In fp32, where only the order of additions differs between the two sides; measured, with the margin: docs/log.md."""
ROUNDED_FACTOR = 3.0
"""Where there is no room for the base in fp32: the mean distance from fp32, as a multiple of stock's."""
ROUNDED_PEAK = 60.0
"""The same for the largest distance of one token: the distribution has long tails."""
ROUNDED_LEAST = 0.05
"""The least mean distance that stock is credited with, in nats: the few tokens of one row may agree by chance."""
NUM_PLAIN_ROWS = 2
"""Golden rows, the shortest, that are scored without the adapter as well, to see whether anything was learnt."""


@dataclass(frozen=True, slots=True)
class GoldenExample:
    """An example with the log-probabilities that the trainer gives its supervised tokens."""

    example: int  # its index in the dataset
    rendered: RenderedExample
    trained_S: torch.Tensor  # by the trainer's own code, in the dtype that both sides are compared in
    stock_S: torch.Tensor | None = None  # by transformers and peft in the base's own dtype, unless that is fp32
    num_prompt: int | None = None  # tokens before the first answer, where those are scored, too

    @property
    def prompt(self) -> RenderedExample:
        """The tokens before its first answer."""
        end = self.rendered.supervised.index(True) if self.num_prompt is None else self.num_prompt
        pictures = tuple(one for one in self.rendered.pictures if one.start < end)
        ids = self.rendered.token_ids[:end]
        return replace(self.rendered, token_ids=ids, supervised=[False] * end, pictures=pictures)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """An adapter on a base, and the engine that serves it."""

    engine: Scorer
    base_model: str  # catalog id
    adapter: AdapterRef

    def scores(self, examples: Sequence[RenderedExample], *, adapted: bool = True) -> list[torch.Tensor]:
        """Log-probabilities (S,) of each example's supervised tokens, with the adapter or by the base alone."""
        request = ScoreRequest(self.base_model, tuple(examples), self.adapter if adapted else None)
        return [torch.tensor(scores) for scores in self.engine.score(request)]


@dataclass(frozen=True, slots=True)
class ScoreComparison:
    """How near the engine's scores are to the trainer's."""

    rows: tuple[GoldenRow, ...]
    largest: float
    mean: float
    effect: float  # the largest difference that the adapter makes


def compare_scores(
    served: ServedModel,
    golden: Sequence[GoldenExample],
    tolerance: Tolerance,
    check_cancelled: Callable[[], None] = lambda: None,
) -> ScoreComparison:
    """The comparison, within the tolerance; `check_cancelled` is called between its parts.

    Raises:
        Internal: the engine's scores differ by more.

    """
    examples = [row.rendered for row in golden]
    scores = served.scores(examples)
    largest, mean = check_logprobs(golden, scores, tolerance)
    check_cancelled()
    plain = served.scores(examples[:NUM_PLAIN_ROWS], adapted=False)
    pairs = zip(golden, scores, strict=True)
    return ScoreComparison(
        rows=tuple(GoldenRow(g.example, len(s), float(g.trained_S.mean()), float(s.mean())) for g, s in pairs),
        largest=largest,
        mean=mean,
        effect=max(float((s - p).abs().max()) for s, p in zip(scores, plain, strict=False)),
    )


def check_logprobs(
    golden: Sequence[GoldenExample], scores: Sequence[torch.Tensor], tolerance: Tolerance
) -> tuple[float, float]:
    """The largest and the mean difference, both within the tolerance.

    Raises:
        Internal: one is not.

    """
    apart = [(row.trained_S - served_S).abs() for row, served_S in zip(golden, scores, strict=True)]
    worst = max(range(len(apart)), key=lambda index: _nan_last(apart[index].max()))
    largest, mean = float(apart[worst].max()), float(torch.cat(apart).mean())
    if not (largest <= tolerance.largest and mean <= tolerance.mean):
        raise served_otherwise(
            f"log-probabilities differ by up to {largest:.3g} (in example {golden[worst].example}) and by {mean:.3g} "
            f"on average; {tolerance.largest:g} and {tolerance.mean:g} are tolerated"
        )
    return largest, mean


def _nan_last(value: torch.Tensor) -> float:
    return float(value.nan_to_num(nan=torch.inf))


def rounded_tolerance(golden: Sequence[GoldenExample]) -> Tolerance:
    """How far log-probabilities may be from fp32 in a dtype that rounds: a multiple of stock's distance."""
    stock = [(row.stock_S - row.trained_S).abs() for row in golden if row.stock_S is not None]
    mean = max(ROUNDED_LEAST, float(torch.cat(stock).mean()))
    return Tolerance(largest=ROUNDED_PEAK * mean, mean=ROUNDED_FACTOR * mean)


def measure_rounding(served: ServedModel, golden: Sequence[GoldenExample], dtype: torch.dtype) -> Rounding | None:
    """How far rounding to `dtype` moves the golden rows, as served and in stock; `None` where stock was not scored.

    Their `trained_S` count as exact, in fp32.

    Raises:
        Internal: the engine's scores are not finite.

    """
    exact = torch.cat([row.trained_S for row in golden])
    stock = [row.stock_S for row in golden if row.stock_S is not None]
    if len(stock) < len(golden):
        return None
    scores = torch.cat(served.scores([row.rendered for row in golden]))
    if not bool(scores.isfinite().all()):
        raise served_otherwise(f"in {dtype} log-probabilities are not finite")
    return Rounding(_distance(scores, exact), _distance(torch.cat(stock), exact))


def _distance(scores_S: torch.Tensor, exact_S: torch.Tensor) -> Distance:
    apart_S = (scores_S - exact_S).abs()
    return Distance(float(apart_S.mean()), float(apart_S.max()))


def served_otherwise(why: str) -> Internal:
    """The error of an adapter that is served otherwise than it was trained."""
    return Internal(f"The adapter is not served as it was trained: {why}. It was not published; tune again.")
