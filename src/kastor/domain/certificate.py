"""The proof that a tuned model is served as it was trained. Written beside its adapter, shown with its job.

Which examples it is made on is decided here; how they are scored is the business of `worker.certify` and
`serving.certificate`. Log-probabilities are in nats.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

FORMAT = 2
CERTIFICATE_FILE = "certificate.json"
MAX_GOLDEN_ROWS = 8
MAX_GOLDEN_TOKENS = 1024
"""Of all golden rows: about a second of a forward pass of the embedded base on two quiet cores."""


def golden_rows(lengths: Sequence[int], seed: int) -> list[int]:
    """Which examples are golden, shortest first: one by chance out of each part of the lengths, as far as they fit.

    The longest go first where they are too many tokens together; one is always left.

    >>> golden_rows([5, 900, 7, 3000], seed=1), golden_rows([9000], seed=1)
    ([0, 2, 1], [0])
    """
    ordered = sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
    parts = min(MAX_GOLDEN_ROWS, len(ordered))
    edges = [len(ordered) * part // parts for part in range(parts + 1)]
    chance = random.Random(seed)  # noqa: S311  # repeatable, not secret
    chosen = [ordered[chance.randrange(edges[part], edges[part + 1])] for part in range(parts)]
    while len(chosen) > 1 and sum(lengths[index] for index in chosen) > MAX_GOLDEN_TOKENS:
        chosen.pop()
    return chosen


@dataclass(frozen=True, slots=True)
class GoldenRow:
    """An example that was scored twice; means are over its supervised tokens."""

    example: int  # its index in the dataset
    num_tokens: int  # supervised
    trained: float  # mean log-probability by the trainer
    served: float  # and by the serving engine


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two log-probabilities of a token may be apart: at most, and on average."""

    largest: float
    mean: float


@dataclass(frozen=True, slots=True)
class Distance:
    """How far log-probabilities are from those computed in fp32: on average, and at most."""

    mean: float
    largest: float


@dataclass(frozen=True, slots=True)
class Rounding:
    """What computing in the base's own dtype does to the golden rows. Reported; no model fails by it."""

    served: Distance  # by the serving engine
    stock: Distance  # by transformers and peft


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was compared, and how near it came. There is none of a model that failed."""

    base_model: str
    dtype: str  # in which the model is served
    compared_in: str  # dtype of both sides of the comparison
    rows: tuple[GoldenRow, ...]
    largest_difference: float  # of a token's log-probability, trained against served
    mean_difference: float
    decode_difference: float  # largest; of a generated token's, one by one against all at once
    tolerance: Tolerance
    rounding: Rounding | None  # absent where the base is served in fp32, or does not fit in memory in fp32
    effect: float  # the most that the adapter changes a token's log-probability, in the shortest rows
    num_tensors: int  # of the adapter; all are applied
    finish_reason: str  # of a greedy answer to a golden prompt; empty where the context has no room for one
    num_generated: int  # its tokens
    versions: Mapping[str, str]

    @property
    def num_tokens(self) -> int:
        """Supervised tokens that were compared."""
        return sum(row.num_tokens for row in self.rows)

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        fields = {_camel(name): value for name, value in asdict(self).items() if value is not None}
        rows = [{_camel(name): value for name, value in asdict(row).items()} for row in self.rows]
        return {"format": FORMAT, "verdict": "passed", **fields, "rows": rows, "versions": dict(self.versions)}

    def encoded(self) -> str:
        """The text of the file."""
        return json.dumps(self.document(), indent=2) + "\n"


def unreadable_certificate(job_id: str) -> dict[str, Any]:
    """What is shown in place of a job's certificate whose file is damaged."""
    said = f"{CERTIFICATE_FILE} of job {job_id} is damaged; the model itself may be intact."
    return {"verdict": "unreadable", "error": said}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
