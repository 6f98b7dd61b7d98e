"""`kastor export`: writes a tuned model for other programs from the data folder; a server may run or not."""

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

STOP_TIMEOUT_S = 10.0  # for the export process to remove incomplete files


def run(name: str, kind: Format, weights: Weights | None, target: Path, data_dir: Path | None, out: Output) -> None:
    """Export the model into a folder; `weights` applies to GGUF files only."""
    if weights is not None and kind is not Format.GGUF:
        raise InvalidArgument(
            f"--weights {weights.value} applies to --format gguf only; {kind.value} keeps its own precision."
        )
    settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    check_target(target)
    check_output_folder("--out", target.parent)
    job = _job(name, settings)
    if job.state is not State.SUCCEEDED:
        raise FailedPrecondition(
            f"The job {job.id} of {name} is {job.state.value}; only a job that succeeded can be exported."
        )
    with golden_media(settings, job) as located_media:
        request = _export_request(job, kind, weights or Weights.F16, target.absolute(), settings, located_media, out)
        manifest = _run_export_process(request, settings, out)
    size = megabytes(sum(file["bytes"] for file in manifest["files"].values()))
    comparison = manifest["comparison"]
    shown = f"{target}  {kind.value}  {size}"
    out.result({"folder": str(request.out), **manifest}, shown)
    if not out.as_json:
        out.say(
            f"{counted(comparison['tokens'], 'token')} of {counted(comparison['rows'], 'example')}: log-probabilities "
            f"differ by at most {comparison['largestDifference']:.2g} from those served, "
            f"{comparison['meanDifference']:.2g} on average"
        )


def _export_request(
    job: TuningJob,
    kind: Format,
    weights: Weights,
    target: Path,
    settings: Settings,
    located_media: LocatedMedia,
    out: Output,
) -> ExportRequest:
    base = load_catalog(settings.catalog_file).base(job.spec.base_model)
    hub = base.source if isinstance(base.source, HubSource) else None
    as_tuned = replace(base, family=rendering_of(base.family, job.spec.rendering))
    description = f"{base.display_name}, tuned: the model {job.tuned_model_id} of job {job.id}."
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
        catalog_entry=entry(as_tuned, job.tuned_model_id, job.tuned_model_id, description, target),
        feature_cache=settings.cache_dir / "features",
        feature_cache_bytes=settings.feature_cache_bytes,
        media=located_media.media,
        lost=located_media.lost,
        num_threads=settings.num_threads,
    )


def _job(name: str, settings: Settings) -> TuningJob:
    """The job of the tuned model, or with this id."""
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
                f"{settings.data_dir} has no tuned model or job {name!r}. Run the export on the server's machine; "
                "--data-dir names its data folder."
            ) from None


@contextmanager
def _stores(settings: Settings) -> Iterator[tuple[JobStore, ModelStore]]:
    database = open_database(settings.resolved_database_url, timeout_s=settings.database_timeout_s)
    try:
        migrate(database)
        yield JobStore(database), ModelStore(database)
    finally:
        database.close()


def _run_export_process(request: ExportRequest, settings: Settings, out: Output) -> dict[str, Any]:
    """Run the export in a child process, which may load torch; returns the manifest."""
    parent_death_pipe = ParentDeathPipe()  # the process ends with this command, even if that is killed
    command = [sys.executable, "-m", "kastor.export", "--parent-fd", str(parent_death_pipe.child_fd)]
    child_environment = {**os.environ, **environment(settings)}
    with subprocess.Popen(  # noqa: S603
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment,
        text=True,
        pass_fds=(parent_death_pipe.child_fd,),
    ) as process:
        try:
            return _read_messages(process, request, out)
        except BaseException:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except (subprocess.TimeoutExpired, KeyboardInterrupt):
                process.kill()
            raise
        finally:
            parent_death_pipe.close()


def _read_messages(process: "subprocess.Popen[str]", request: ExportRequest, out: Output) -> dict[str, Any]:
    assert process.stdin is not None and process.stdout is not None  # noqa: S101  # both are pipes
    process.stdin.write(request.encode())
    process.stdin.close()
    for line in process.stdout:
        message = json.loads(line)
        if "result" in message:
            return dict(message["result"])
        if "error" in message:
            raise FailedPrecondition(message["error"])
        out.say(message["stage"])
    raise FailedPrecondition(
        f"The export process ended with exit code {process.wait()}; it may have run out of memory."
    )
