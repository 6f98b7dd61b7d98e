"""`kastor models`: lists, downloads, shows and deletes base models and tuned models."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, Task, TextColumn
from rich.text import Text

from kastor.cli.client.client import Client
from kastor.cli.client.connection import ServerAddress, connect
from kastor.cli.client.messages import TunedModelRecord
from kastor.cli.console.output import Column, Output, fields, list_table, megabytes, program, state_text
from kastor.domain.errors import FailedPrecondition, InvalidArgument, NotFound
from kastor.models import download
from kastor.models.catalog import BaseModel, load_catalog
from kastor.settings import Settings, load_settings

BASE_COLUMNS = (Column("base model", whole=True), Column("size", right=True), Column("weights"), Column("licence"))
TUNED_COLUMNS = (
    *(Column("tuned model", whole=True), Column("state", whole=True), Column("created")),
    *(Column("base"), Column("display name")),
)
STAGES = {
    "downloading": "downloading",
    "verifying": "checking sha256",
    "converting": "converting to safetensors, once (about a minute)",
}


def list_models(address: ServerAddress, out: Output) -> None:
    """List base models, their aliases and tuned models."""
    with connect(address, out) as connection:
        bases = _remote_bases(connection.client) if address.server else _local_bases()
        tuned = connection.client.tuned_models()
    width = out.out.width
    shown = list_table(BASE_COLUMNS, [row for base in bases for row in _base_rows(base)], width)
    models = list_table(TUNED_COLUMNS, [_tuned_row(model) for model in tuned], width)
    document = {"baseModels": bases, "tunedModels": [dict(model.raw) for model in tuned]}
    out.result(document, *((shown, "", models) if tuned else (shown,)))
    if not tuned and not out.as_json:
        out.say(f"\nNo tuned models yet. To create one: {program()} tune data.jsonl, or {program()} demo")


def _base_rows(base: dict[str, Any]) -> Iterator[tuple[str | Text, ...]]:
    """A row for the base model, and one for each of its aliases."""
    location = {True: "here", False: "not downloaded", None: "on the server"}[base["local"]]
    yield base["name"], base["parameters"], location, base["licence"]
    for alias in base["aliases"]:
        yield Text(f"  {alias}", style="dim"), "", Text("the same", style="dim"), ""


def _tuned_row(model: TunedModelRecord) -> tuple[str | Text, ...]:
    created = model.created_at.astimezone().strftime("%Y-%m-%d %H:%M") if model.created_at else ""
    return model.name, state_text(model.state), created, model.base_model.removeprefix("models/"), model.display_name


def _local_bases() -> list[dict[str, Any]]:
    settings = load_settings()
    catalog = load_catalog(settings.catalog_file)
    return [
        {
            "name": base.name,
            "displayName": base.display_name,
            "parameters": f"{base.num_parameters / 1e6:.0f} M",
            "licence": base.licence,
            "aliases": [f"models/{alias}" for alias, target in catalog.aliases.items() if target == base.id],
            "local": download.is_local(base, settings.cache_dir),
        }
        for base in catalog.bases.values()
    ]


def _remote_bases(client: Client) -> list[dict[str, Any]]:
    """The base models of a server on another machine, which does not report where its weights are."""
    return [
        {
            "name": item["name"],
            "displayName": item.get("displayName", ""),
            "parameters": "",
            "licence": "",
            "aliases": [],
            "local": None,
        }
        for item in client.base_models()
    ]


def pull_model(name: str, out: Output, *, accept_licence: bool = False) -> None:
    """Download a base model's weights; `accept_licence` agrees to its licence."""
    settings = load_settings()
    base = load_catalog(settings.catalog_file).base(name)
    try:
        folder = fetch_base(base, settings, out, accept_licence=accept_licence)
    except KeyboardInterrupt:
        out.say("\nInterrupted; completely downloaded packages are kept for the next try.", style="")
        raise
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    out.result({"name": base.name, "folder": str(folder), "bytes": size}, f"{base.name}  {megabytes(size)}  {folder}")


def fetch_base(base: BaseModel, settings: Settings, out: Output, *, accept_licence: bool = False) -> Path:
    """The base model's folder; downloads it with progress on stderr, and asks for consent to its licence, if needed.

    Raises:
        FailedPrecondition: the user did not agree to the licence.

    """
    if download.is_local(base, settings.cache_dir):
        return download.ensure_local(base, settings.cache_dir)
    accepted = _accepted_licences(base, settings, out, accept_licence=accept_licence)
    out.say(f"Downloading {base.name} ({base.licence}) into {settings.cache_dir}")
    with download_progress(out) as on_progress:
        return download.ensure_local(base, settings.cache_dir, on_progress, accepted=accepted)


def _accepted_licences(base: BaseModel, settings: Settings, out: Output, *, accept_licence: bool) -> Sequence[str]:
    """The accepted licences including this base's, by the settings, by an option, or on the terminal."""
    terms, accepted = base.terms, settings.accepted_licences
    if terms is None or terms.id in accepted:
        return accepted
    out.say_prose(
        f"{base.display_name} is licensed under the {base.licence}: {terms.url}\n{terms.asks}\n{terms.notice}."
    )
    if not accept_licence:
        if not (sys.stdin.isatty() and out.err.is_terminal):
            download.check_agreement(base, settings.cache_dir, accepted)
        if not typer.confirm("Do you agree to these terms?", err=True):
            raise FailedPrecondition(f"{base.name} was not downloaded: you did not agree to its terms.")
    return [*accepted, terms.id]


@contextmanager
def download_progress(out: Output) -> Iterator[download.OnProgress]:
    """A callback that shows download progress on stderr."""
    columns = (
        SpinnerColumn("line", style="cyan", finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(bar_width=22, complete_style="cyan", finished_style="green", pulse_style="dim"),
        _Bytes(),
    )
    with Progress(*columns, console=out.err, transient=True, disable=not out.err.is_terminal) as progress:
        tasks: dict[str, Any] = {}

        def on_progress(at: download.Progress) -> None:
            label = STAGES.get(at.stage, at.stage)
            if at.stage not in tasks:
                for task in tasks.values():
                    progress.update(task, visible=False)
                tasks[at.stage] = progress.add_task(label, total=at.total)
                if not out.err.is_terminal:
                    out.say(label)
            progress.update(tasks[at.stage], completed=at.done, total=at.total)

        yield on_progress


class _Bytes(DownloadColumn):
    """The byte counts of a stage, if it has any."""

    def render(self, task: Task) -> Text:
        """Bytes done and in total."""
        return super().render(task) if task.total is not None else Text("")


def show_model(name: str, address: ServerAddress, out: Output) -> None:
    """Show a tuned model or a base model."""
    with connect(address, out) as connection:
        tuned = name.startswith("tunedModels/")
        raw: dict[str, Any] = {}
        if not name.startswith("models/"):
            try:
                raw = dict(connection.client.tuned_model(f"tunedModels/{name.removeprefix('tunedModels/')}").raw)
            except NotFound:
                if tuned:
                    raise
        if not raw:
            raw = connection.client.base_model(f"models/{name.removeprefix('models/')}")
    out.result(raw, fields([(key, value) for key, value in _flat(raw) if value]))


def _flat(raw: dict[str, Any]) -> list[tuple[str, str]]:
    """The scalar fields of the answer, nested ones too; of a list of objects such as snapshots only the length."""
    found: list[tuple[str, str]] = []
    for key, value in raw.items():
        if isinstance(value, dict):
            found += _flat(value)
        elif isinstance(value, list):
            plain = [str(item) for item in value if not isinstance(item, dict)]
            found.append((key, ", ".join(plain) if plain else f"{len(value)}"))
        else:
            found.append((key, str(value)))
    return found


def delete_model(name: str, yes: bool, address: ServerAddress, out: Output) -> None:
    """Delete a tuned model, with its job, checkpoints and log."""
    if name.startswith("models/"):
        raise InvalidArgument(
            f"{name} is a base model; only tuned models can be deleted. Base weights are cached in "
            f"{load_settings().cache_dir}, which may be emptied at any time."
        )
    full = f"tunedModels/{name.removeprefix('tunedModels/')}"
    with connect(address, out) as connection:
        connection.client.tuned_model(full)
        if not yes:
            _confirm_deletion(full, out)
        connection.client.delete_tuned_model(full)
    out.result({"deleted": full}, f"deleted {full}")


def _confirm_deletion(name: str, out: Output) -> None:
    if not out.err.is_terminal or out.as_json:
        raise FailedPrecondition(f"Deleting {name} cannot be undone; confirm with --yes.")
    typer.confirm(f"Delete {name} with its checkpoints and log?", abort=True, err=True)
