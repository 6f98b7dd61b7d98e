"""`kastor keys …`: options and help; what the commands do is in `keys`."""

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
    email: Annotated[str, typer.Option(metavar="EMAIL", help="Who calls with it: owner of what they make.")],
    label: Annotated[str, typer.Option(help="A note on what it is for.")] = "",
    operator: Annotated[bool, typer.Option("--operator", help="Its caller may do everything.")] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="SPAN", help="For how long it works: 30m, 12h, 90d.  [default: for ever]")
    ] = None,
    data_dir: DataDir = None,
    as_json: options.Json = False,
) -> None:
    """Make a key and print it; it is not stored and cannot be shown again.

    Works on the database itself, of a running server too, and takes effect at once.

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
    """List the keys: whose, since when and until when; never the keys themselves.

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
    """Revoke a key; from the next request on it lets nobody in.

    \b
    Example:
      kastor keys revoke 4k2m9x01qz
    """
    from kastor.cli.commands import keys
    from kastor.cli.console.output import Output

    keys.revoke(key_id, data_dir, Output.of(as_json))
