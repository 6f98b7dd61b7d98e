"""What a job trains on: its examples as tokens, and the features of their pictures as they come."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import overload

from kastor.dataset.formats.parse import decode_example
from kastor.dataset.media.sampling_record import encode_sampling
from kastor.dataset.validation.rules import token_violations
from kastor.domain.errors import InvalidArgument
from kastor.domain.job import TuningJob, TuningSpec
from kastor.domain.vision import TokenCount, VisionSpec
from kastor.models.catalog import BaseModel
from kastor.models.chat.render import RenderedExample, Renderer
from kastor.models.vision.encoder import tower_hash
from kastor.models.vision.media_frames import medium_frames_key
from kastor.models.vision.specs import TOWER_FILE
from kastor.worker.job_monitor import JobMonitor
from kastor.worker.pipeline.feature_source import FeatureSource
from kastor.worker.pipeline.frames import FrameSource
from kastor.worker.pipeline.inputs import DatasetConfig, Workspace
from kastor.worker.pipeline.pixel_source import PixelSource
from kastor.worker.pipeline.prefetch import FeaturePrefetcher, VisionInputSource
from kastor.worker.pipeline.rendered_examples import PreparedFiles, RenderedExamples, load_text_examples
from kastor.worker.pipeline.unreadable_media import UnreadableMedia
from kastor.worker.pipeline.validate import JobDatasetValidation

LEFT_OUT = RenderedExample([], [])


class StreamingExamples(Sequence[RenderedExample]):
    """The rows as training can have them: each waits for its media, and is without tokens where one of them is bad."""

    def __init__(self, rows: RenderedExamples, seeing: FeaturePrefetcher) -> None:
        self._rows = rows
        self._seeing = seeing

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> RenderedExample: ...

    @overload
    def __getitem__(self, index: slice) -> list[RenderedExample]: ...

    def __getitem__(self, index: int | slice) -> RenderedExample | list[RenderedExample]:
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._rows[index] if self._seeing.ready(index) else LEFT_OUT


@dataclass(frozen=True, slots=True)
class PreparedExamples:
    """The examples, the spec as it holds now that they are known, and what they show, if they show anything."""

    spec: TuningSpec
    examples: Sequence[RenderedExample]
    tokens: TokenCount  # of all
    renderer: Renderer  # that rendered them
    seeing: FeaturePrefetcher | None = None


class ExamplePreparation:
    """Prepares one job's examples. What it prepared stays on disk for as long as `stack` is open."""

    def __init__(
        self,
        job: TuningJob,
        config: DatasetConfig | None,
        workspace: Workspace,
        monitor: JobMonitor,
        stack: ExitStack,
        on_validated: Callable[[TuningSpec], None],
    ) -> None:
        """`config` is there where the job has a dataset file; `on_validated` gets the spec once that was validated."""
        self._job = job
        self._config = config
        self._on_validated = on_validated
        self._workspace = workspace
        self._monitor = monitor
        self._stack = stack

    def prepared(self, base: BaseModel, folder: Path, *, done: int, num_threads: int) -> PreparedExamples:
        """Judge the dataset file if there is one, begin to look at its media, render; `done` steps are behind the job.

        Raises:
            InvalidArgument: the examples cannot be trained on; says which and why.

        """
        self._workspace.check_unchanged(self._job.spec.checksums)
        renderer = Renderer.open(folder, base.family, self._job.spec.supervise, self._job.spec.rendering)
        if self._job.spec.file is None or self._config is None:
            examples = self._given(base, renderer)
            supervised = sum(example.num_supervised for example in examples)
            total = sum(len(example.token_ids) for example in examples)
            return PreparedExamples(self._job.spec, examples, TokenCount(total, supervised), renderer)
        spec = JobDatasetValidation(self._job, self._config, self._workspace, self._monitor).validated(base, renderer)
        if spec != self._job.spec:
            self._on_validated(spec)
        files = PreparedFiles(self._workspace.dataset, self._workspace.plan)
        vision = base.family.vision
        if vision is None or not any(row.media for _, _, row in files.plans()):
            if spec.train_tower:
                raise InvalidArgument.of("trainTower", f"no row of {files.dataset.name} shows a picture: leave it out")
            return PreparedExamples(spec, *load_text_examples(files, renderer), renderer)
        if not self._workspace.sampling.exists():  # validated by a release that wrote it here
            self._workspace.write(self._workspace.sampling, encode_sampling(files.media()))
        return self._streamed(files, spec, self._config, (vision, folder), renderer, done, num_threads)

    def _streamed(
        self,
        files: PreparedFiles,
        spec: TuningSpec,
        config: DatasetConfig,
        base: tuple[VisionSpec, Path],
        renderer: Renderer,
        done: int,
        num_threads: int,
    ) -> PreparedExamples:
        """The examples of a dataset with media, which a thread fetches and decodes from now on."""
        vision, folder = base
        frames = FrameSource(config.media, self._job.id, vision, self._stack, self._log_refusal)
        tower_folder = self._tower_folder(folder)
        inputs: VisionInputSource
        if spec.train_tower:
            inputs = PixelSource(frames, vision, tower_hash(tower_folder, vision))
        else:
            inputs = FeatureSource(
                config.media.open_feature_cache(),
                replace(self._job, spec=spec),
                self._workspace,
                self._monitor,
                self._stack,
                (vision, tower_folder),
                num_threads=num_threads,
            )
        rows = RenderedExamples(files, renderer, inputs.key_of)
        unreadable = UnreadableMedia(
            config.file_name,
            config.limits.max_dropped_share,
            self._workspace,
            self._monitor,
            files,
            partial(medium_frames_key, vision=vision),
        )
        prefetcher = FeaturePrefetcher(rows, spec, done, inputs, unreadable, frames, self._monitor)
        self._stack.enter_context(closing(prefetcher)).start()
        return PreparedExamples(spec, StreamingExamples(rows, prefetcher), rows.tokens, renderer, prefetcher)

    def _tower_folder(self, base: Path) -> Path:
        """Where the tower lies that the job sees with, or starts from: a tuned model may have its own."""
        initial = self._workspace.initial_adapter
        return initial if (initial / TOWER_FILE).is_file() else base

    def _log_refusal(self, why: str) -> None:
        self._monitor.log_event(
            f"decoded pictures are not kept, but decoded again wherever they are needed again: {why}"
        )

    def _given(self, base: BaseModel, renderer: Renderer) -> list[RenderedExample]:
        """The examples that came with the request."""
        with self._workspace.dataset.open("rb") as file:
            examples = [renderer.example(decode_example(line)) for line in file]
        longest = base.input_token_limit + base.output_token_limit
        for number, example in enumerate(examples):
            for fault in token_violations(len(example.token_ids), longest, base.name):
                raise InvalidArgument.of(f"examples[{number}]", f"{fault.message}; {fault.hint}")
        return examples
