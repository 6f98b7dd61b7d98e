"""An answer of a model, streamed to stdout as it is made."""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import typer

from kastor.cli.client.client import Client
from kastor.cli.client.connection import ServerAddress, connect
from kastor.cli.client.messages import GeneratedAnswer, SamplingOptions
from kastor.cli.console.output import Output
from kastor.domain.counts import counted
from kastor.domain.errors import NotFound
from kastor.domain.visible_text import visible_text


def run(model: str, prompt: str, sampling: SamplingOptions, access: ServerAddress, out: Output) -> None:
    """Ask `model`; `prompt` may be `-` for stdin."""
    asked = _stdin_text().rstrip("\n") if prompt == "-" else prompt
    if not asked:
        raise typer.BadParameter("it is empty; give text, or - and text on stdin.", param_hint="PROMPT")
    with connect(access, out) as link:
        name = resource_name(link.client, model)
        answer = _shown(link.client.stream(name, asked, sampling), out)
    if out.as_json:
        out.result(
            {
                "model": name,
                "text": answer.text,
                "finishReason": answer.finish_reason,
                "usageMetadata": dict(answer.usage),
                "modelVersion": answer.served_by,
            }
        )
    if answer.finish_reason == "MAX_TOKENS":
        out.say(
            f"Cut after {counted(answer.usage.get('candidatesTokenCount', 0), 'token')}; --max-tokens sets the limit."
        )


def system_instruction(given: str) -> str:
    """The text, or that of the file which `@FILE` names, without the line ends after it.

    Raises:
        typer.BadParameter: the file cannot be read, or there is no text.

    """
    text = given
    if given.startswith("@"):
        try:
            text = Path(given[1:]).read_text("utf-8").rstrip("\n")
        except OSError as error:
            said = f"{given[1:]} cannot be read: {error.strerror}."
            raise typer.BadParameter(said, param_hint="--system") from error
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"{given[1:]} is not UTF-8.", param_hint="--system") from error
    if not text:
        raise typer.BadParameter("it is empty; leave it out, or give text.", param_hint="--system")
    return text


def _stdin_text() -> str:
    """All that comes on stdin.

    Raises:
        typer.BadParameter: it is not UTF-8.

    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        said = f"what came on stdin is not UTF-8: byte {error.start + 1:,} is {error.object[error.start]:#04x}."
        raise typer.BadParameter(said, param_hint="PROMPT") from error


def resource_name(client: Client, model: str) -> str:
    """The full name: a bare one is a tuned model's if there is one of that name, else a base's."""
    if "/" in model:
        return model
    try:
        return client.tuned_model(f"tunedModels/{model}").name
    except NotFound:
        return f"models/{model}"


def _shown(pieces: Iterator[GeneratedAnswer], out: Output) -> GeneratedAnswer:
    """The whole answer, whose pieces went to stdout unless JSON is wanted."""
    text, last = "", GeneratedAnswer("", "", {}, "")
    with out.err.status("loading the model", spinner="line"):  # draws in a terminal only
        first = next(pieces, last)
    for piece in chain([first], pieces):
        text, last = text + piece.text, piece
        if not out.as_json:
            sys.stdout.write(visible_text(piece.text) if sys.stdout.isatty() else piece.text)
            sys.stdout.flush()
    if not out.as_json and not text.endswith("\n"):
        sys.stdout.write("\n")
    return GeneratedAnswer(text, last.finish_reason, last.usage, last.served_by)
