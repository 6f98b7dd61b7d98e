"""Writing a tuned model for other programs, out of the data folder: no server is asked, and one may run."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kastor.cli.client.golden_media import LocatedMedia, golden_media, job_files
from kastor.cli.commands.models import fetch_base
from kastor.cli.console.output import Output, megabytes
from kastor.cli.console.output_files import check_output_folder
from kastor.domain.counts import counted
from kastor.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from kastor.domain.job import State, TuningJob
from kastor.export.request import ExportRequest, Format, Weights, check_target
from kastor.models.catalog import HubSource, entry, load_catalog
from kastor.models.chat.families import rendering_of
from kastor.runtime.parent_death import ParentDeathPipe
from kastor.settings import Settings, environment, load_settings
from kastor.store.blobs.job_files import JobFiles
from kastor.store.database import migrate, open_database
from kastor.store.jobs import JobStore
from kastor.store.models import ModelStore

STOP_TIMEOUT_S = 10.0  # for the exporting process to remove what is half written


def run(name: str, kind: Format, weights: Weights | None, target: Path, data_dir: Path | None, out: Output) -> None:
    """Export the model into the folder; `weights` are of a GGUF file only."""
    if weights is not None and kind is not Format.GGUF:
        raise InvalidArgument(f"--weights {weights.value} is for --format gguf; {kind.value} keeps its own precision.")
    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    check_target(target)
    check_output_folder("--out", target.parent)
    job = _job(name, settings)
    if job.state is not State.SUCCEEDED:
        raise FailedPrecondition(f"The job {job.id} of {name} is {job.state.value}; only a success can be exported.")
    with golden_media(settings, job) as found:
        order = _order(job, kind, weights or Weights.F16, target.absolute(), settings, found, out)
        manifest = _made(order, settings, out)
    size = megabytes(sum(file["bytes"] for file in manifest["files"].values()))
    near = manifest["comparison"]
    shown = f"{target}  {kind.value}  {size}"
    out.result({"folder": str(order.out), **manifest}, shown)
    if not out.as_json:
        out.say(
            f"{counted(near['tokens'], 'token')} of {counted(near['rows'], 'example')}: log-probabilities at most "
            f"{near['largestDifference']:.2g} from those served, {near['meanDifference']:.2g} on average"
        )


def _order(
    job: TuningJob, kind: Format, weights: Weights, target: Path, settings: Settings, found: LocatedMedia, out: Output
) -> ExportRequest:
    base = load_catalog(settings.catalog_file).base(job.spec.base_model)
    hub = base.source if isinstance(base.source, HubSource) else None
    as_tuned = replace(base, family=rendering_of(base.family, job.spec.rendering))
    said = f"{base.display_name}, tuned: the model {job.tuned_model_id} of job {job.id}."
    return ExportRequest(
        format=kind,
        weights=weights,
        out=target,
        model=f"tunedModels/{job.tuned_model_id}",
        job=job.id,
        base_model=base.name,
        family=base.family.name,
        base_folder=fetch_base(base, settings, out),
        base_hub=hub.repo if hub else "",
        base_revision=hub.revision if hub else "",
        licence=base.licence,
        adapter=JobFiles(settings.data_dir).adapter(job.id),
        files=job_files(settings, job),
        supervise=job.spec.supervise,
        rendering=job.spec.rendering,
        catalog_entry=entry(as_tuned, job.tuned_model_id, job.tuned_model_id, said, target),
        feature_cache=settings.cache_dir / "features",
        feature_cache_bytes=settings.feature_cache_bytes,
        media=found.media,
        lost=found.lost,
        num_threads=settings.num_threads,
    )


def _job(name: str, settings: Settings) -> TuningJob:
    """The job that made the model, or has this id."""
    with _stores(settings) as (jobs, models):
        model_id = name.removeprefix("tunedModels/")
        try:
            return jobs.get(models.get(model_id).job_id)
        except NotFound:
            if name == model_id:
                try:
                    return jobs.get(name)
                except NotFound:
                    pass
            raise NotFound(
                f"{settings.data_dir} holds no tuned model or job {name!r}. Export runs where the server's data is; "
                "--data-dir names the folder."
            ) from None


@contextmanager
def _stores(settings: Settings) -> Iterator[tuple[JobStore, ModelStore]]:
    database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
    try:
        migrate(database)
        yield JobStore(database), ModelStore(database)
    finally:
        database.close()


def _made(order: ExportRequest, settings: Settings, out: Output) -> dict[str, Any]:
    """The manifest of the export, made by a process that may load torch."""
    lifeline = ParentDeathPipe()  # it ends with this command, also where that is killed
    command = [sys.executable, "-m", "kastor.export", "--parent-fd", str(lifeline.child_fd)]
    surroundings = {**os.environ, **environment(settings)}
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=surroundings,
        text=True,
        pass_fds=(lifeline.child_fd,),
    ) as process:
        try:
            return _followed(process, order, out)
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
            raise
        finally:
            lifeline.close()


def _followed(process: "subprocess.Popen[str]", order: ExportRequest, out: Output) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101  # both are pipes
    process.stdin.write(order.encode())
    process.stdin.close()
    for line in process.stdout:
        said = json.loads(line)
        if "result" in said:
            return dict(said["result"])
        if "error" in said:
            raise FailedPrecondition(said["error"])
        out.say(said["stage"])
    raise FailedPrecondition(f"The exporting process ended with {process.wait()}: memory may have run out.")
