"""`kastor models …`: options and help; `models` implements the commands."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from typing import Annotated

import typer

from kastor.cli.console import options
from kastor.cli.console.arguments import Commands

app = Commands(
    help="Base models and tuned models: list, download, show, delete.", no_args_is_help=True, rich_markup_mode=None
)
ModelName = Annotated[str, typer.Argument(metavar="MODEL", help="tunedModels/NAME, models/NAME, or NAME alone.")]


@app.command("list")
def list_models(server: options.Server = None, api_key: options.ApiKey = None, as_json: options.Json = False) -> None:
    """List base models with their aliases, and tuned models with their state.

    \b
    Example:
      kastor models list
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import models
    from kastor.cli.console.output import Output

    models.list_models(ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or alias of a base model.")],
    accept_licence: options.AcceptLicence = False,
    as_json: options.Json = False,
) -> None:
    """Download a base model's weights into the cache and print their folder.

    \b
    Example:
      kastor models pull smollm2-135m-instruct
      kastor models pull gemma-3-270m --accept-licence
    """
    from kastor.cli.commands import models
    from kastor.cli.console.output import Output

    models.pull_model(name, Output.of(as_json), accept_licence=accept_licence)


@app.command()
def show(
    model: ModelName, server: options.Server = None, api_key: options.ApiKey = None, as_json: options.Json = False
) -> None:
    """Show a tuned model or a base model.

    \b
    Example:
      kastor models show tunedModels/numbers-7kq2wz
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import models
    from kastor.cli.console.output import Output

    models.show_model(model, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def delete(
    model: ModelName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Delete a tuned model with its job, checkpoints and log.

    \b
    Example:
      kastor models delete numbers-7kq2wz --yes
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import models
    from kastor.cli.console.output import Output

    models.delete_model(model, yes, ServerAddress(server, api_key), Output.of(as_json))
