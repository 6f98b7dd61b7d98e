"""`kastor jobs`: lists, shows, cancels and resumes jobs, and prints their logs."""

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from rich.text import Text

from kastor.cli.client.client import Client
from kastor.cli.client.connection import ServerAddress, connect
from kastor.cli.client.messages import Job
from kastor.cli.commands.tune import follow_to_end, report
from kastor.cli.console.loss_chart import loss_chart
from kastor.cli.console.output import Column, Output, duration, fields, list_table, program, state_text
from kastor.domain.certificate import unreadable_certificate
from kastor.domain.counts import counted
from kastor.domain.errors import NotFound
from kastor.domain.visible_text import json_text

COLUMNS = (
    *(Column("job", whole=True), Column("tuned model", whole=True), Column("state", whole=True)),
    *(Column("steps", right=True), Column("age", right=True), Column("loss", right=True), Column("base")),
)
LAST_EVENTS = 8
SEARCHED_JOBS = 1000
FOLLOW_EVERY_S = 0.5
LEVEL_STYLE = {"debug": "dim", "info": "", "warning": "yellow", "error": "red", "critical": "red"}
HIDDEN_KEYS = ("exception", "job_id", "attempt")  # printed below the line; known; the same for many lines
TIME_KEYS, MESSAGE_KEYS = ("timestamp", "time", "at"), ("event", "message", "msg")


def list_jobs(limit: int, address: ServerAddress, out: Output) -> None:
    """List the newest jobs."""
    with connect(address, out) as connection:
        found = connection.client.jobs(limit)
    rows = [
        (
            job.id,
            job.tuned_model,
            state_text(job.state),
            f"{job.completed_steps}/{job.total_steps}",
            _age(job.created_at),
            f"{job.last.mean_loss:.3f}" if job.last else "",
            job.base_model.removeprefix("models/"),
        )
        for job in found
    ]
    if not found and not out.as_json:
        out.say(f"No jobs yet. Start one: {program()} tune data.jsonl")
        return
    out.result([dict(job.raw) for job in found], *([list_table(COLUMNS, rows, out.out.width)] if rows else ()))


def show_job(name: str, address: ServerAddress, out: Output) -> None:
    """Show a job: its fields, loss curve and last events."""
    with connect(address, out) as connection:
        job = connection.client.job(_job_id(connection.client, name), full=True)
    if out.as_json:
        out.result(dict(job.raw))
        return
    out.result(None, fields(_job_fields(job)))
    curve = loss_chart(job.steps, out.out.width)
    if curve:
        out.result(None, "", curve)
    if job.events:
        out.result(
            None, "", *(_event_line(event.at, event.message, event.level) for event in job.events[-LAST_EVENTS:])
        )


def cancel_job(name: str, address: ServerAddress, out: Output) -> None:
    """Ask a job to stop."""
    with connect(address, out) as connection:
        job = connection.client.cancel(_job_id(connection.client, name))
    out.result(dict(job.raw), Text.assemble(f"{job.id} is ", state_text(job.state)))


def resume_job(name: str, detach: bool, address: ServerAddress, out: Output) -> None:
    """Start a new job that continues this failed one, and follow it to its end unless `detach`."""
    with connect(address, out, scheduler=not detach) as connection:
        if detach:
            connection.check_detachable()
        job = connection.client.resume(_job_id(connection.client, name))
        if detach:
            out.result(dict(job.raw), Text.assemble(f"{job.id} is ", state_text(job.state)))
            return
        out.say(f"Job {job.id} continues from step {job.completed_steps} of {job.total_steps}")
        ended = follow_to_end(connection, job.id, out)
    report(ended, job.tuned_model, out)


def show_log(name: str, follow: bool, address: ServerAddress, out: Output) -> None:
    """Print the job's log line by line; with `follow`, until the job has ended."""
    with connect(address, out, scheduler=False) as connection:
        job_id, offset, rest = _job_id(connection.client, name), 0, b""
        while True:
            # checked before reading, so that no line is missed
            ended = not follow or connection.client.job(job_id).state.terminal
            piece, offset = connection.client.log(job_id, offset)
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                _print_log_line(line, out)
            if not piece:
                if ended:
                    break
                time.sleep(FOLLOW_EVERY_S)
        if rest:
            _print_log_line(rest, out)


def _job_id(client: Client, name: str) -> str:
    """The id of the job with this id or this tuned model's name."""
    try:
        return client.job(name).id
    except NotFound:
        model_name = f"tunedModels/{name.removeprefix('tunedModels/')}"
        for job in client.jobs(SEARCHED_JOBS):
            if job.tuned_model == model_name:
                return job.id
        raise NotFound(f"There is no job {name!r}. To list the jobs: {program()} jobs list") from None


def _job_fields(job: Job) -> list[tuple[str, str | Text]]:
    settings = job.raw.get("hyperparameters", {})
    adapter = job.raw.get("adapter", {})
    took = (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else None
    rows: list[tuple[str, str | Text | None]] = [
        ("job", job.id),
        ("tuned model", job.tuned_model),
        ("state", state_text(job.state)),
        ("error", Text(job.error, style="red") if job.error else None),
        ("to resume", f"{program()} jobs resume {job.id}" if job.raw.get("resumable") else None),
        ("resumed as", job.raw.get("resumedAs")),
        ("base", job.base_model),
        ("examples", job.examples),
        ("steps", f"{job.completed_steps} of {job.total_steps}"),
        ("settings", _name_value_text(settings)),
        ("adapter", _name_value_text(adapter)),
        ("loss", f"{job.last.mean_loss:.4f}" if job.last else None),
        ("speed", f"{job.last.tokens_per_second:.0f} tokens/s" if job.last and job.last.tokens_per_second else None),
        ("created", _local_time(job.created_at)),
        ("certificate", _certificate_text(job.raw.get("certificate"), job.id)),
        ("took", duration(took) if took is not None else None),
        ("time left", duration(job.eta_s) if job.eta_s is not None and not job.state.terminal else None),
        ("attempts", str(job.attempt) if job.attempt > 1 else None),
    ]
    return [(name, value) for name, value in rows if value]


def _certificate_text(certificate: Mapping[str, Any] | None, job_id: str) -> str | None:
    """The verdict of the certificate: how well serving reproduced training before the model was published."""
    if certificate is None:
        return None
    try:
        if certificate["verdict"] == "passed":
            return _passed_text(certificate)
    except (KeyError, TypeError, ValueError):  # the server returns the file as it is stored
        certificate = unreadable_certificate(job_id)
    return f"{certificate['verdict']}: {certificate.get('error')}"


def _passed_text(certificate: Mapping[str, Any]) -> str:
    tokens, most = sum(row["numTokens"] for row in certificate["rows"]), certificate["tolerance"]["largest"]
    compared = f"{counted(tokens, 'token')} of {counted(len(certificate['rows']), 'example')}"
    return (
        f"{certificate['verdict']}: served as trained, {compared}; log-probabilities at most "
        f"{certificate['largestDifference']:.2g} apart{_comparison_dtype(certificate)} (tolerance {most:.2g}); "
        f"the adapter changes them by up to {certificate['effect']:.2g}{_rounding_text(certificate)}"
    )


def _comparison_dtype(certificate: Mapping[str, Any]) -> str:
    """The dtype of the comparison; certificates of format 1 have none, as they used the dtype of serving."""
    return f" in {certificate['comparedIn']}" if "comparedIn" in certificate else ""


def _rounding_text(certificate: Mapping[str, Any]) -> str:
    rounding = certificate.get("rounding")
    if rounding is None:
        return ""
    served, stock = (rounding[side]["mean"] for side in ("served", "stock"))
    return f"; {certificate['dtype']} rounds them by {served:.2g} on average ({stock:.2g} in transformers and peft)"


def _name_value_text(values: Mapping[str, object]) -> str:
    return "  ".join(f"{name} {value}" for name, value in values.items())


def _print_log_line(line: bytes, out: Output) -> None:
    text = line.decode("utf-8", "replace")
    try:
        entry = json.loads(text)
    except ValueError:
        entry = None
    if not isinstance(entry, dict):
        entry = {"message": text}
    if out.as_json:
        sys.stdout.write(json_text(entry) + "\n")
        sys.stdout.flush()
        return
    at = next((str(entry[key]) for key in TIME_KEYS if key in entry), "")
    message = next((str(entry[key]) for key in MESSAGE_KEYS if key in entry), "")
    level = str(entry.get("level", ""))
    rest = {key: value for key, value in entry.items() if key not in (*TIME_KEYS, *MESSAGE_KEYS, "level")}
    line_text = "  ".join(
        [message, *(f"{key}={_short_value(value)}" for key, value in rest.items() if key not in HIDDEN_KEYS)]
    )
    out.out.print(_event_line(_parse_time(at), line_text, level))
    if "exception" in rest:
        out.out.print(str(rest["exception"]), style="red")


def _short_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _event_line(at: datetime | None, message: str, level: str) -> Text:
    clock = at.astimezone().strftime("%H:%M:%S") if at else ""
    parts = [(clock, "dim"), (f"{level:<7}", LEVEL_STYLE.get(level, "")), (message, LEVEL_STYLE.get(level, ""))]
    return Text("  ").join(Text(text, style=style) for text, style in parts if text.strip())


def _parse_time(at: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _local_time(at: datetime | None) -> str | None:
    return at.astimezone().strftime("%Y-%m-%d %H:%M:%S") if at else None


def _age(at: datetime | None) -> str:
    return duration((datetime.now(UTC) - at).total_seconds()) if at else ""
