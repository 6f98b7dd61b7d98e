"""All commands with their options and help; the modules of the same names implement them."""

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
EPILOG = "Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Results go to stdout, messages to stderr."

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


def _print_version(given: bool) -> None:
    if given:
        typer.echo(f"kastor {kastor.__version__}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Tune open language models on your own machine, through Google's tunedModels API.

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
        typer.Argument(metavar="DATA", help="JSONL, JSON or CSV file; - reads stdin."),
    ],
    base: Annotated[str, typer.Option(metavar="NAME", help="Base model, as `kastor models list` shows it.")] = (
        "smollm2-135m-instruct"
    ),
    epochs: Annotated[int | None, typer.Option(help="Passes over the dataset.  [default: 5]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Examples per step.  [default: 4; from 500 examples on, 16]")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate.  [default: 0.001; from 500 examples on, 0.0002]")
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="ID", help="Id of the tuned model.  [default: derived from the display name]")
    ] = None,
    display_name: Annotated[
        str | None, typer.Option(help="Display name, at most 40 characters.  [default: the file's name]")
    ] = None,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Limits for the dataset: open, vertex-gemini-2.5, …  [default: open]"),
    ] = None,
    supervise: options.Supervised = SupervisedTurns.ALL,
    train_tower: Annotated[
        bool,
        typer.Option(
            "--train-tower", help="Also train the vision tower of the base; slower, for datasets with images."
        ),
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the job and return; needs a running server.")] = False,
    accept_licence: options.AcceptLicence = False,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Tune a model on the examples in DATA and print its name.

    Uses the running server, or a private one that ends with this command. After Ctrl-C the job continues on a running
    server; with a private one it waits for the next server on this data folder: `kastor serve`, or a later `tune`.

    \b
    Examples:
      kastor tune data.jsonl
      kastor tune pairs.csv --base smollm2-135m-instruct --epochs 3 --name my-model
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import tune as command
    from kastor.cli.console.output import Output

    tune_options = command.TuneOptions(
        base, epochs, batch_size, learning_rate, name, display_name, profile, supervise, train_tower, accept_licence
    )
    command.run(data, (input_key, output_key), tune_options, detach, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def generate(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="tunedModels/NAME, models/NAME, or NAME; tuned models take precedence."),
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")],
    system: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="System instruction, as in the training examples; @FILE reads it from a file."
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="0 (always the likeliest token) to 2.  [default: the model's]")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the likeliest tokens with this total probability.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from this many of the likeliest tokens.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Stop after this many tokens.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; up to 5 times.")] = None,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Send a prompt to a tuned model or base model, and stream the answer to stdout.

    \b
    Examples:
      kastor generate numbers-7kq2wz "forty one"
      kastor generate smollm2-135m-instruct "Say hello." --temperature 0 --max-tokens 20
      kastor generate numbers-7kq2wz - < prompt.txt
      kastor generate numbers-7kq2wz "hi" --system @instruction.txt
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.client.messages import SamplingOptions
    from kastor.cli.commands import generate as command
    from kastor.cli.console.output import Output

    instruction = None if system is None else command.system_instruction(system)
    sampling = SamplingOptions(temperature, top_p, top_k, max_tokens, seed, tuple(stop or ()), instruction)
    command.run(model, prompt, sampling, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def check(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="JSONL, JSON or CSV file, also as .gz or .zst; - reads stdin.",
        ),
    ],
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A validation dataset to check as well.")
    ] = None,
    base: Annotated[
        str, typer.Option(metavar="NAME", help="Base model to check for; its tokenizer counts the tokens.")
    ] = "smollm2-135m-instruct",
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Limits for the dataset: open, gemini-api, vertex-gemini-2.5 and others.  "
            "[default: the installation's; open for a vision base]",
        ),
    ] = None,
    raised: options.Raised = None,
    epochs: Annotated[int | None, typer.Option(help="For the estimate.  [default: 5]")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="For the estimate.  [default: 4; from 500 examples on, 16]")
    ] = None,
    supervise: options.Supervised = SupervisedTurns.ALL,
    show_tokens: Annotated[
        int, typer.Option(metavar="N", min=0, help="Show the first N examples as tokens, those trained on in colour.")
    ] = 0,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write an HTML report with the first rows and their media."),
    ] = None,
    rejects: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the rows that are not accepted, with the reasons, as JSONL."),
    ] = None,
    media_root: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Folder that media may be read from; repeatable.  [default: any]"),
    ] = None,
    input_key: options.InputKey = None,
    output_key: options.OutputKey = None,
    as_json: options.Json = False,
) -> None:
    """Check a dataset with its media before tuning.

    Reports which rows are accepted, dropped or rejected, and why; token counts; duplicates; and the estimated time,
    memory and disk space of training. Exits with 1 if a job on the dataset would be refused.

    \b
    Examples:
      kastor check data.jsonl --show-tokens 2
      kastor check videos.jsonl --validation held-out.jsonl --html report.html
    """
    from kastor.cli.commands import check as command
    from kastor.cli.console.output import Output

    check_options = command.CheckOptions(
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
    command.run(check_options, Output.of(as_json))


app.command()(prepare_command.prepare)


@app.command()
def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="tunedModels/NAME, NAME, or the id of a job.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new or empty folder.")],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="peft: the adapter; merged: base and adapter combined, for transformers; gguf: for llama.cpp.",
        ),
    ] = Format.PEFT,
    weights: Annotated[
        Weights | None, typer.Option("--weights", help="Data type of the matrices in a GGUF file.  [default: f16]")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="The data folder of the server.  [default: ~/.local/share/kastor]")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Export a tuned model for other programs.

    Reads the data folder directly, so run it on the server's machine; the server may be running. Before DIR appears,
    the export is loaded and its log-probabilities are compared with those that Kastor serves.

    \b
    Examples:
      kastor export tunedModels/numbers-7kq2wz --out numbers-adapter
      kastor export numbers-7kq2wz --format merged --out numbers
      kastor export numbers-7kq2wz --format gguf --weights q8_0 --out numbers-gguf
    """
    from kastor.cli.commands import export as command
    from kastor.cli.console.output import Output

    command.run(model, kind, weights, out, data_dir, Output.of(as_json))


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one.  [default: 8080]")] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder for jobs, datasets and tuned models.  [default: ~/.local/share/kastor]")
    ] = None,
    grpc_port: Annotated[
        int | None, typer.Option(help="Also serve gRPC on this port; 0 takes a free one.  [default: no gRPC]")
    ] = None,
    grpc_cert: Annotated[
        Path | None, typer.Option(help="Certificate for gRPC, PEM.  [default: created in the data folder]")
    ] = None,
    grpc_key: Annotated[Path | None, typer.Option(help="Private key of --grpc-cert, PEM.")] = None,
    grpc_insecure: Annotated[
        bool, typer.Option("--grpc-insecure", help="Serve gRPC without TLS; only if --host is this machine.")
    ] = False,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Accept requests without a key; only if --host is this machine.")
    ] = False,
    as_json: options.Json = False,
    private: Annotated[bool, typer.Option("--private", hidden=True)] = False,
    scheduler: Annotated[bool, typer.Option("--scheduler/--no-scheduler", hidden=True)] = True,
    parent_fd: Annotated[int | None, typer.Option("--parent-fd", hidden=True)] = None,
) -> None:
    """Serve the HTTP API and run tuning jobs, until Ctrl-C.

    Callers need a key from `kastor keys create`, unless --no-auth is given. All other settings are environment
    variables KASTOR_… or entries of the TOML file named by KASTOR_CONFIG. With --json, a line with the URL is printed
    once the server listens.

    \b
    Examples:
      kastor serve --no-auth
      kastor serve --host 0.0.0.0 --port 9000
    """
    from kastor.cli import serve as command
    from kastor.cli.console.output import Output

    given: dict[str, object] = {"host": host, "port": port, "data_dir": data_dir, "no_auth": no_auth or None}
    given |= {"grpc_port": grpc_port, "grpc_cert_file": grpc_cert, "grpc_key_file": grpc_key}
    given["grpc_insecure"] = grpc_insecure or None
    command.run(given, command.Internals(private, scheduler, parent_fd), Output.of(as_json))


@app.command()
def version(as_json: options.Json = False) -> None:
    """Print the version.

    \b
    Example:
      kastor version --json
    """
    from kastor.cli.console.output import Output

    Output.of(as_json).result({"version": kastor.__version__}, f"kastor {kastor.__version__}")
