"""What a job trains on: its examples as tokens, and the stored features of their pictures."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from kastor.dataset.parse import decode_example
from kastor.dataset.rules import token_faults
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import TuningJob, TuningSpec
from kastor.domain.vision import TokenCount, Vision
from kastor.models.catalog import BaseModel
from kastor.models.render import Rendered, Renderer
from kastor.models.vision import FeatureStore
from kastor.settings import Settings
from kastor.store.blobs import Blobs
from kastor.worker.features import FeaturePass
from kastor.worker.judging import Judging
from kastor.worker.ownership import Ownership
from kastor.worker.rows import Files, Rows

LOOKED_AT = 512
"""Pictures whose features are read for their spread: 33,000 tokens and more tell it to a hundredth."""


@dataclass(frozen=True, slots=True)
class Pictures:
    """The features of the examples' pictures; `tower` is the hash of what made them."""

    store: FeatureStore
    some: list[tuple[str, int]]  # keys and indices of pictures that tell of all
    tower: str
    vision: Vision


@dataclass(frozen=True, slots=True)
class Prepared:
    """The examples, the spec as it holds now that they are known, and what they show, if they show anything."""

    spec: TuningSpec
    examples: Sequence[Rendered]
    tokens: TokenCount  # of all
    pictures: Pictures | None = None


class Preparing:
    """Prepares one job's examples. What it prepared stays on disk for as long as `stack` is open."""

    def __init__(
        self, settings: Settings, job: TuningJob, blobs: Blobs, ownership: Ownership, stack: ExitStack
    ) -> None:
        self._settings = settings
        self._job = job
        self._blobs = blobs
        self._ownership = ownership
        self._stack = stack

    def prepared(self, base: BaseModel, folder: Path, *, num_threads: int) -> Prepared:
        """Judge the dataset file if there is one, look at its media, render.

        Raises:
            InvalidArgument: the examples cannot be trained on; says which and why.
            What `FeaturePass.run` raises.

        """
        renderer = Renderer.open(folder, base.family, self._job.spec.supervise)
        if self._job.spec.file is None:
            examples = self._given(base, renderer)
            supervised = sum(example.num_supervised for example in examples)
            total = sum(len(example.token_ids) for example in examples)
            return Prepared(self._job.spec, examples, TokenCount(total, supervised))
        judging = Judging(self._settings, self._job, self._blobs, self._ownership)
        spec = judging.settled(base, renderer)
        files = Files(self._blobs.dataset(self._job.id), self._blobs.plan(self._job.id))
        if base.family.vision is None or not any(row.media for _, _, row in files.plans()):
            rows = Rows(files, renderer)
            return Prepared(spec, list(rows), rows.tokens)
        seeing = FeaturePass(
            self._settings, replace(self._job, spec=spec), self._blobs, self._ownership, base.family.vision, folder
        )
        store = seeing.open(self._stack)
        spec, left_out = seeing.run(store, num_threads)
        rows = Rows(files, renderer, seeing.key_of, left_out)
        return Prepared(
            spec, rows, rows.tokens, Pictures(store, rows.pictures(LOOKED_AT), seeing.tower, base.family.vision)
        )

    def _given(self, base: BaseModel, renderer: Renderer) -> list[Rendered]:
        """The examples that came with the request."""
        with self._blobs.dataset(self._job.id).open("rb") as file:
            examples = [renderer.example(decode_example(line)) for line in file]
        longest = base.input_token_limit + base.output_token_limit
        for number, example in enumerate(examples):
            for fault in token_faults(len(example.token_ids), longest, base.name):
                raise InvalidArgument.of(f"examples[{number}]", f"{fault.message}; {fault.hint}")
        return examples
