"""`kastor generate`: streams a model's answer to stdout."""

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


def run(model: str, prompt: str, sampling: SamplingOptions, address: ServerAddress, out: Output) -> None:
    """Send the prompt to the model; the prompt `-` is read from stdin."""
    text = _stdin_text().rstrip("\n") if prompt == "-" else prompt
    if not text:
        raise typer.BadParameter("It is empty; give a text, or - to read it from stdin.", param_hint="PROMPT")
    with connect(address, out) as connection:
        name = resource_name(connection.client, model)
        answer = _print_stream(connection.client.stream(name, text, sampling), out)
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
        num_tokens = answer.usage.get("candidatesTokenCount", 0)
        out.say(f"Stopped after {counted(num_tokens, 'token')}; --max-tokens sets the limit.")


def system_instruction(given: str) -> str:
    """The text, or the content of the file named by `@FILE` without trailing line ends.

    Raises:
        typer.BadParameter: the file cannot be read, or the text is empty.

    """
    text = given
    if given.startswith("@"):
        try:
            text = Path(given[1:]).read_text("utf-8").rstrip("\n")
        except OSError as error:
            message = f"{given[1:]} cannot be read: {error.strerror}."
            raise typer.BadParameter(message, param_hint="--system") from error
        except UnicodeDecodeError as error:
            raise typer.BadParameter(f"{given[1:]} is not UTF-8.", param_hint="--system") from error
    if not text:
        raise typer.BadParameter("It is empty; give a text, or leave the option out.", param_hint="--system")
    return text


def _stdin_text() -> str:
    """Everything on stdin as text.

    Raises:
        typer.BadParameter: it is not UTF-8.

    """
    try:
        return sys.stdin.buffer.read().decode()
    except UnicodeDecodeError as error:
        message = f"The text on stdin is not UTF-8: byte {error.start + 1:,} is {error.object[error.start]:#04x}."
        raise typer.BadParameter(message, param_hint="PROMPT") from error


def resource_name(client: Client, model: str) -> str:
    """The resource name; a bare name is a tuned model if one has that name, else a base model."""
    if "/" in model:
        return model
    try:
        return client.tuned_model(f"tunedModels/{model}").name
    except NotFound:
        return f"models/{model}"


def _print_stream(chunks: Iterator[GeneratedAnswer], out: Output) -> GeneratedAnswer:
    """Print the chunks as they arrive, unless JSON is wanted; returns the complete answer."""
    text, last = "", GeneratedAnswer("", "", {}, "")
    with out.err.status("loading the model", spinner="line"):  # only shown on a terminal
        first = next(chunks, last)
    for chunk in chain([first], chunks):
        text, last = text + chunk.text, chunk
        if not out.as_json:
            sys.stdout.write(visible_text(chunk.text) if sys.stdout.isatty() else chunk.text)
            sys.stdout.flush()
    if not out.as_json and not text.endswith("\n"):
        sys.stdout.write("\n")
    return GeneratedAnswer(text, last.finish_reason, last.usage, last.served_by)
