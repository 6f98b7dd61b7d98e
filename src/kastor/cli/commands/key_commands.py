"""`kastor keys …`: options and help; `keys` implements the commands."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from pathlib import Path
from typing import Annotated

import typer

from kastor.cli.console import options
from kastor.cli.console.arguments import Commands

app = Commands(help="API keys of this installation: create, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
DataDir = Annotated[Path | None, typer.Option(help="The data folder of the server.  [default: ~/.local/share/kastor]")]


@app.command()
def create(
    email: Annotated[
        str, typer.Option(metavar="EMAIL", help="The caller that the key identifies, who owns what they create.")
    ],
    label: Annotated[str, typer.Option(help="A note on what the key is for.")] = "",
    operator: Annotated[bool, typer.Option("--operator", help="Give the caller access to everything.")] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="SPAN", help="How long the key is valid: 30m, 12h, 90d.  [default: no expiry]")
    ] = None,
    data_dir: DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Create a key and print it; only its hash is stored, so it cannot be shown again.

    Works on the database directly, also while a server runs, and takes effect at once.

    \b
    Examples:
      kastor keys create --email you@example.com
      kastor keys create --email ci@example.com --label "nightly tuning" --expires 90d
    """
    from kastor.cli.commands import keys
    from kastor.cli.console.output import Output

    keys.create(keys.KeyOptions(email, label, operator, expires), data_dir, Output.of(as_json))


@app.command("list")
def list_keys(data_dir: DataDir = None, as_json: options.Json = False) -> None:
    """List the keys with owner, creation and expiry; never the keys themselves.

    \b
    Example:
      kastor keys list
    """
    from kastor.cli.commands import keys
    from kastor.cli.console.output import Output

    keys.list_keys(data_dir, Output.of(as_json))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `kastor keys list` shows it.")],
    data_dir: DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Revoke a key; it is rejected from the next request on.

    \b
    Example:
      kastor keys revoke 4k2m9x01qz
    """
    from kastor.cli.commands import keys
    from kastor.cli.console.output import Output

    keys.revoke(key_id, data_dir, Output.of(as_json))
