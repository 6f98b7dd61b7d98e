"""`kastor tune`: starts a tuning job and follows it until it ends."""

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
    """Options of the command line."""

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


def run(data: Path, columns: Columns, options: TuneOptions, detach: bool, address: ServerAddress, out: Output) -> None:
    """Tune on the examples in `data`."""
    with dataset_file(data) as file:
        _run(file, data.absolute().parent, columns, options, detach, address, out)


def _run(
    data: Path, folder: Path, columns: Columns, options: TuneOptions, detach: bool, address: ServerAddress, out: Output
) -> None:
    facts = FileFacts()
    examples = read_examples(data, input_key=columns[0], output_key=columns[1], facts=facts)
    _print_file_facts(facts, out)
    new = NewTuning(
        options.base,
        examples,
        options.epochs,
        options.batch_size,
        options.learning_rate,
        options.model_id,
        options.display_name or _display_name(data),
        options.supervise,
        options.train_tower,
    )
    if address.server is None:
        _accept_licence(options, out)
    with connect(address, out, scheduler=True, media_folder=folder) as connection:
        if detach:
            connection.check_detachable()
        job_id, name = _create_job(connection, new, data, folder, columns, options.profile)
        if detach:
            out.result({"name": name, "job": job_id}, name)
            return
        out.say(f"Tuning {name} (job {job_id}) on {counted(len(examples), 'row')}" + _server_text(connection))
        job = follow_to_end(connection, job_id, out)
    report(job, name, out, how=' "…" --system "…"' if any(example.system for example in examples) else ' "…"')


def _print_file_facts(facts: FileFacts, out: Output) -> None:
    """Print how the file was read, if that is not obvious, and which of its parts are ignored."""
    if facts.sentence:
        out.say(f"Read as {facts.sentence}")
    for note, number in facts.notes.most_common(MAX_NOTES):
        out.say(f"{note} ({number:,} of the rows)", style="yellow")


def _accept_licence(options: TuneOptions, out: Output) -> None:
    """Download the base now if its licence needs consent: the server could not ask for it later."""
    settings = load_settings()
    try:
        base = load_catalog(settings.catalog_file).base(options.base)
    except NotFound:
        return  # a tuned model, or a name that the server will refuse
    if base.terms is not None:
        fetch_base(base, settings, out, accept_licence=options.accept_licence)


def _display_name(data: Path) -> str:
    """The dataset's file name without its extensions; bytes that are not UTF-8 are replaced."""
    stem = os.fsencode(data.name).decode("utf-8", "replace").lstrip(".").partition(".")[0]
    return stem[: GEMINI_API.max_display_name_chars]


def _create_job(
    connection: ServerConnection, new: NewTuning, data: Path, folder: Path, columns: Columns, profile: str | None
) -> tuple[str, str]:
    """Create the job; returns its id and tuned model. What the tunedModels API cannot carry is uploaded as a file."""
    if new.pairs_only and profile is None and not new.train_tower:
        try:
            return connection.client.create_tuning(new)
        except InvalidArgument as error:
            if BODY_TOO_LARGE not in error.message:
                raise
    with _uploadable_file(new, data, columns) as path:
        dataset = connection.client.upload(path, path.name)
    job = connection.client.create_job(new.job_body(dataset, str(folder), profile))
    return job.id, job.tuned_model


@contextmanager
def _uploadable_file(new: NewTuning, data: Path, columns: Columns) -> Iterator[Path]:
    """The dataset as a file with the standard field names."""
    if columns == (None, None):
        yield data
        return
    with TemporaryFolder(DATASET_FOLDER_PREFIX) as folder:
        path = folder / f"{data.stem}.jsonl"
        with path.open("wb") as file:
            file.writelines(encode_example(example) + b"\n" for example in new.examples)
        yield path


def follow_to_end(connection: ServerConnection, job_id: str, out: Output) -> Job:
    """Follow the job until it has ended; on Ctrl-C, print what happens to it."""
    try:
        with create_display(out.err) as display:
            return follow(connection.client, job_id, display, connection.check)
    except KeyboardInterrupt:
        if connection.private:
            out.say(
                f"\nInterrupted. Job {job_id} is kept and continues with the next `{program()} serve`; "
                f"to cancel it: {program()} jobs cancel {job_id}",
                style="",
            )
        else:
            out.say(
                f"\nDetached; job {job_id} continues. To watch it: {program()} jobs logs -f {job_id}; "
                f"to cancel it: {program()} jobs cancel {job_id}",
                style="",
            )
        raise
    except Unavailable as error:
        raise Unavailable(f"{error.message} Job {job_id} is kept: {program()} jobs show {job_id}") from error


def report(job: Job, name: str, out: Output, how: str = ' "…"') -> None:
    """Print the result of an ended job; `how` follows the model's name in the suggested command.

    Raises:
        KastorError: the job did not succeed.

    """
    if job.state is not State.SUCCEEDED:
        out.result({"name": name, "job": dict(job.raw)})
        raise KastorError(_failure_text(job))
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


def _server_text(connection: ServerConnection) -> str:
    return ", with a private server" if connection.private else f", on {connection.client.url}"


def _failure_text(job: Job) -> str:
    """One or two sentences on why a job produced no model."""
    if job.state is State.CANCELLED:
        return f"Job {job.id} was cancelled after {job.completed_steps} of {counted(job.total_steps, 'step')}."
    reason = (job.error or "no reason was given").rstrip(".")
    log = "" if "jobs logs" in reason else f" Its log: {program()} jobs logs {job.id}"
    more = f" To resume from its last checkpoint: {program()} jobs resume {job.id}" if job.raw.get("resumable") else ""
    return f"Job {job.id} failed: {reason}.{log}{more}"
