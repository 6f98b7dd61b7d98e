"""`kastor tune`: start a tuning and stay with it until it ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kastor.cli.client.connection import ServerAddress, ServerConnection, connect
from kastor.cli.client.follow import follow
from kastor.cli.client.messages import Job, NewTuning
from kastor.cli.commands.models import fetch_base
from kastor.cli.console.dataset_input import DATASET_FOLDER_PREFIX, dataset_file
from kastor.cli.console.output import Output, duration, program
from kastor.cli.console.progress import create_display
from kastor.dataset.formats.encode import encode_example
from kastor.dataset.formats.issues import FileFacts
from kastor.dataset.formats.read import Columns, read_examples
from kastor.domain.content import SupervisedTurns
from kastor.domain.counts import counted
from kastor.domain.errors import InvalidArgument, KastorError, NotFound, Unavailable
from kastor.domain.job import State
from kastor.domain.request_limits import GEMINI_API
from kastor.models.catalog import load_catalog
from kastor.runtime.temporary_folder import TemporaryFolder
from kastor.settings import load_settings

MAX_NOTES = 5
BODY_TOO_LARGE = "Request payload size exceeds the limit"  # the wording of the wire


@dataclass(frozen=True, slots=True)
class TuneOptions:
    """What was asked for on the command line."""

    base: str
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    model_id: str | None
    display_name: str | None
    profile: str | None = None
    supervise: SupervisedTurns = SupervisedTurns.ALL
    train_tower: bool = False
    accept_licence: bool = False


def run(data: Path, columns: Columns, wanted: TuneOptions, detach: bool, access: ServerAddress, out: Output) -> None:
    """Tune on the examples in `data`."""
    with dataset_file(data) as file:
        _run(file, data.absolute().parent, columns, wanted, detach, access, out)


def _run(
    data: Path, folder: Path, columns: Columns, wanted: TuneOptions, detach: bool, access: ServerAddress, out: Output
) -> None:
    facts = FileFacts()
    examples = read_examples(data, input_key=columns[0], output_key=columns[1], facts=facts)
    _say_facts(facts, out)
    new = NewTuning(
        wanted.base,
        examples,
        wanted.epochs,
        wanted.batch_size,
        wanted.learning_rate,
        wanted.model_id,
        wanted.display_name or _display_name(data),
        wanted.supervise,
        wanted.train_tower,
    )
    if access.server is None:
        _with_licence(wanted, out)
    with connect(access, out, scheduler=True, media_folder=folder) as link:
        if detach:
            link.check_detachable()
        job_id, name = _created(link, new, data, folder, columns, wanted.profile)
        if detach:
            out.result({"name": name, "job": job_id}, name)
            return
        out.say(f"Tuning {name} (job {job_id}) on {counted(len(examples), 'row')}" + _where(link))
        job = follow_to_end(link, job_id, out)
    report(job, name, out, how=' "…" --system "…"' if any(example.system for example in examples) else ' "…"')


def _say_facts(facts: FileFacts, out: Output) -> None:
    """How the file was read, where that is not plain, and what of it plays no part."""
    if facts.sentence:
        out.say(f"Read as {facts.sentence}")
    for said, number in facts.notes.most_common(MAX_NOTES):
        out.say(f"{said} ({number:,} of the rows)", style="yellow")


def _with_licence(wanted: TuneOptions, out: Output) -> None:
    """Fetch the base now if its licence is to be agreed to: later nobody can be asked."""
    settings = load_settings()
    try:
        base = load_catalog(settings.catalog_file).base(wanted.base)
    except NotFound:
        return  # a tuned model, or a name that the server refuses
    if base.terms is not None:
        fetch_base(base, settings, out, accept_licence=wanted.accept_licence)


def _display_name(data: Path) -> str:
    """The dataset's name without its endings, which may be bytes that are no text."""
    stem = os.fsencode(data.name).decode("utf-8", "replace").lstrip(".").partition(".")[0]
    return stem[: GEMINI_API.max_display_name_chars]


def _created(
    link: ServerConnection, new: NewTuning, data: Path, folder: Path, columns: Columns, profile: str | None
) -> tuple[str, str]:
    """The job and the tuned model; what the tunedModels API cannot carry goes as a dataset file."""
    if new.pairs_only and profile is None and not new.train_tower:
        try:
            return link.client.create_tuning(new)
        except InvalidArgument as error:
            if BODY_TOO_LARGE not in error.message:
                raise
    with _uploadable(new, data, columns) as path:
        dataset = link.client.upload(path, path.name)
    job = link.client.create_job(new.job_body(dataset, str(folder), profile))
    return job.id, job.tuned_model


@contextmanager
def _uploadable(new: NewTuning, data: Path, columns: Columns) -> Iterator[Path]:
    """The dataset as a file that the server reads without being told its columns."""
    if columns == (None, None):
        yield data
        return
    with TemporaryFolder(DATASET_FOLDER_PREFIX) as folder:
        path = folder / f"{data.stem}.jsonl"
        with path.open("wb") as file:
            file.writelines(encode_example(example) + b"\n" for example in new.examples)
        yield path


def follow_to_end(link: ServerConnection, job_id: str, out: Output) -> Job:
    """The ended job; on Ctrl-C says what becomes of it."""
    try:
        with create_display(out.err) as display:
            return follow(link.client, job_id, display, link.check)
    except KeyboardInterrupt:
        if link.private:
            out.say(
                f"\nInterrupted. Job {job_id} is kept and goes on with the next `{program()} serve`; "
                f"to drop it: {program()} jobs cancel {job_id}",
                style="",
            )
        else:
            out.say(
                f"\nDetached; job {job_id} goes on. Watch it: {program()} jobs logs -f {job_id}; "
                f"stop it: {program()} jobs cancel {job_id}",
                style="",
            )
        raise
    except Unavailable as error:
        raise Unavailable(f"{error.message} Job {job_id} is kept: {program()} jobs show {job_id}") from error


def report(job: Job, name: str, out: Output, how: str = ' "…"') -> None:
    """The result of an ended job; `how` is what follows the model's name when it is asked.

    Raises:
        KastorError: it did not succeed.

    """
    if job.state is not State.SUCCEEDED:
        out.result({"name": name, "job": dict(job.raw)})
        raise KastorError(_why(job))
    took = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else None
    loss = f", last loss {job.last.mean_loss:.3f}" if job.last else ""
    out.say(
        "Done"
        + (f" in {duration(took)}" if took is not None else "")
        + loss
        + (f", trained on {job.examples}" if job.raw.get("rows") else "")
        + f". Try: {program()} generate {name}{how}"
    )
    out.result({"name": name, "job": dict(job.raw)}, name)


def _where(link: ServerConnection) -> str:
    return ", with a server of its own" if link.private else f", on {link.client.url}"


def _why(job: Job) -> str:
    """One or two sentences on a job without a model."""
    if job.state is State.CANCELLED:
        return f"Job {job.id} was cancelled after {job.completed_steps} of {counted(job.total_steps, 'step')}."
    reason = (job.error or "no reason was given").rstrip(".")
    log = "" if "jobs logs" in reason else f" Its log: {program()} jobs logs {job.id}"
    more = f" To go on from its last checkpoint: {program()} jobs resume {job.id}" if job.raw.get("resumable") else ""
    return f"Job {job.id} failed: {reason}.{log}{more}"
