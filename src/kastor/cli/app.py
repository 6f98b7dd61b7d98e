"""The commands with their options and help; what they do is in the modules named like them."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from pathlib import Path
from typing import Annotated

import typer

import kastor
from kastor.cli.commands import demo_commands, job_commands, key_commands, model_commands, prepare_command
from kastor.cli.console import options
from kastor.cli.console.arguments import Commands
from kastor.domain.content import SupervisedTurns
from kastor.export.request import Format, Weights

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Results go to stdout, all else to stderr."

app = Commands(
    name="kastor",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=CONTEXT,
)
app.add_typer(demo_commands.app, name="demo")
app.add_typer(job_commands.app, name="jobs")
app.add_typer(model_commands.app, name="models")
app.add_typer(key_commands.app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"kastor {kastor.__version__}")
        raise typer.Exit


@app.callback()
def root(
    show: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tune open language models on your own machine, through the wire of Google's tunedModels API.

    \b
    kastor demo                see it work, in a few minutes
    kastor tune data.jsonl     tune on your own examples
    kastor generate NAME "…"   ask the tuned model
    kastor serve --no-auth     serve the HTTP API on http://127.0.0.1:8080
    """


@app.command()
def tune(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="JSONL, JSON or CSV; - reads stdin."),
    ],
    base: Annotated[str, typer.Option(metavar="NAME", help="Base model: a name that `kastor models list` shows.")] = (
        "smollm2-135m-instruct"
    ),
    epochs: Annotated[int | None, typer.Option(help="How often each example is learnt from.  [default: 5]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per step.  [default: 4; from 500 examples on, 16]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.  [default: 0.001; from 500 examples on, 0.0002]")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the tuned model.  [default: made from the display name]")
    ] = None,
    display_name: Annotated[
        str | None, typer.Option(help="Name for people, at most 40 characters.  [default: that of DATA]")
    ] = None,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Limits to hold the dataset to: open, vertex-gemini-2.5, … [default: open]"),
    ] = None,
    supervise: options.Supervised = SupervisedTurns.ALL,
    train_tower: Annotated[
        bool, typer.Option("--train-tower", help="Train the base's vision tower, too; slower, and for pictures only.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start it and return; needs a running server.")] = False,
    accept_licence: options.AcceptLicence = False,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Tune a model on the examples in DATA and print its name.

    Uses the running server, or a private one that ends with this command. Ctrl-C leaves the job: on a running server it
    goes on, with a private one it waits for the next server of this data folder: `kastor serve`, or a later `tune`.

    \b
    Examples:
      kastor tune data.jsonl
      kastor tune pairs.csv --base smollm2-135m-instruct --epochs 3 --name my-model
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import tune as doing
    from kastor.cli.console.output import Output

    wanted = doing.TuneOptions(
        base, epochs, batch_size, learning_rate, name, display_name, profile, supervise, train_tower, accept_licence
    )
    doing.run(data, (input_key, output_key), wanted, detach, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="tunedModels/NAME, models/NAME, or NAME alone: tuned models first.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to ask; - reads it from stdin.")],
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="System instruction, as in the examples; @FILE reads it from a file."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 takes the likeliest token, up to 2.  [default: the model's]")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest tokens that have this probability together.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from this many likeliest tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed draws the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; up to 5 times.")] = None,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Ask a tuned model or a base model; the answer streams to stdout.

    \b
    Examples:
      kastor generate numbers-7kq2wz "forty one"
      kastor generate smollm2-135m-instruct "Say hello." --temperature 0 --max-tokens 20
      kastor generate numbers-7kq2wz - < prompt.txt
      kastor generate numbers-7kq2wz "hi" --system @instruction.txt
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.client.messages import SamplingOptions
    from kastor.cli.commands import generate as doing
    from kastor.cli.console.output import Output

    instruction = None if system is None else doing.system_instruction(system)
    sampling = SamplingOptions(temperature, top_p, top_k, max_tokens, seed, tuple(stop or ()), instruction)
    doing.run(model, prompt, sampling, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def check(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="JSONL, JSON or CSV, also .gz and .zst; - reads stdin.",
        ),
    ],
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A validation dataset, to be judged with it.")
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="Judge for this base model, and count tokens as it does.")
    ] = "smollm2-135m-instruct",
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Limits to hold it to: open, gemini-api, vertex-gemini-2.5 and others.  "
            "[default: the installation's; open for a base that sees]",
        ),
    ] = None,
    raised: options.Raised = None,
    epochs: Annotated[int | None, typer.Option(help="For the estimate.  [default: 5]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="For the estimate.  [default: 4; from 500 examples on, 16]")
    ] = None,
    supervise: options.Supervised = SupervisedTurns.ALL,
    show_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show the first N examples as tokens, what is learnt in colour.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report as a page, with the first rows and their media."),
    ] = None,
    rejects: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the rows that are not accepted, with why, as JSONL.")
    ] = None,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder that media may come from; repeatable.  [default: any you can read]"),
    ] = None,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    as_json: options.Json = False,
) -> None:
    """Judge a dataset before tuning, media and all.

    Which rows are accepted, dropped or rejected, and why; token counts; duplicates; what training would take.
    Exits with 1 if a job on it would be refused.

    \b
    Examples:
      kastor check data.jsonl --show-tokens 2
      kastor check videos.jsonl --validation held-out.jsonl --profile vertex-gemini-2.5 --html report.html
    """
    from kastor.cli.commands import check as doing
    from kastor.cli.console.output import Output

    wanted = doing.CheckOptions(
        data,
        base,
        validation=validation,
        columns=(input_key, output_key),
        profile=profile,
        raised=tuple(raised or ()),
        epochs=epochs,
        batch_size=batch_size,
        show_tokens=show_tokens,
        html=html,
        rejects=rejects,
        media_roots=tuple(media_root or ()),
        supervise=supervise,
    )
    doing.run(wanted, Output.of(as_json))


app.command()(prepare_command.prepare)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="tunedModels/NAME, NAME, or the id of its job.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A folder that is not there yet, or empty.")],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="peft: the adapter; merged: base and adapter in one, for transformers; gguf: for llama.cpp.",
        ),
    ] = Format.PEFT,
    weights: Annotated[
        Weights | None, typer.Option("--weights", help="Of a GGUF file: how matrices are stored.  [default: f16]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder of the server.  [default: ~/.local/share/kastor]")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Write a tuned model into a folder for other programs.

    Works on the data folder itself, so on the server's machine; the server may run. What was written is read back,
    and its log-probabilities compared with those served, before DIR appears.

    \b
    Examples:
      kastor export tunedModels/numbers-7kq2wz --out numbers-adapter
      kastor export numbers-7kq2wz --format merged --out numbers
      kastor export numbers-7kq2wz --format gguf --weights q8_0 --out numbers-gguf
    """
    from kastor.cli.commands import export as doing
    from kastor.cli.console.output import Output

    doing.run(model, kind, weights, out, data_dir, Output.of(as_json))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  [default: 8080]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Jobs, datasets and tuned models.  [default: ~/.local/share/kastor]")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Speak gRPC too, on this port; 0 takes a free one.  [default: no gRPC]")
    ] = None,
    grpc_cert: Annotated[
        Path | None, typer.Option(help="Certificate for gRPC, PEM.  [default: made in the data folder]")
    ] = None,
    grpc_key: Annotated[Path | None, typer.Option(help="Key of --grpc-cert, PEM.")] = None,
    grpc_insecure: Annotated[
        bool, typer.Option("--grpc-insecure", help="Speak gRPC in plain text; only where --host is this machine.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Ask nobody for a key; only where --host is this machine.")
    ] = False,
    as_json: options.Json = False,
    private: Annotated[bool, typer.Option("--private", hidden=True)] = False,
    scheduler: Annotated[bool, typer.Option("--scheduler/--no-scheduler", hidden=True)] = True,
    parent_fd: Annotated[int | None, typer.Option("--parent-fd", hidden=True)] = None,
) -> None:
    """Serve the HTTP API and run tuning jobs, until Ctrl-C.

    Callers need a key, which `kastor keys create` makes, unless --no-auth is given.
    Every other setting is an environment variable KASTOR_… or stands in the TOML file that KASTOR_CONFIG names.
    With --json a line with the URL is printed once the server listens.

    \b
    Examples:
      kastor serve --no-auth
      kastor serve --host 0.0.0.0 --port 9000
    """
    from kastor.cli import serve as doing
    from kastor.cli.console.output import Output

    given: dict[str, object] = {"host": host, "port": port, "data_dir": data_dir, "no_auth": no_auth or None}
    given |= {"grpc_port": grpc_port, "grpc_cert_file": grpc_cert, "grpc_key_file": grpc_key}
    given["grpc_insecure"] = grpc_insecure or None
    doing.run(given, doing.Internals(private, scheduler, parent_fd), Output.of(as_json))


@app.command()
def version(as_json: options.Json = False) -> None:
    """Print the version.

    \b
    Example:
      kastor version --json
    """
    from kastor.cli.console.output import Output

    Output.of(as_json).result({"version": kastor.__version__}, f"kastor {kastor.__version__}")
