"""`kastor jobs …`: options and help; `jobs` implements the commands."""

# ruff: noqa: D301  (a real \b in a docstring tells the help formatter to leave the paragraph as it is)

from typing import Annotated

import typer

from kastor.cli.console import options
from kastor.cli.console.arguments import Commands

app = Commands(help="Tuning jobs: list, show, cancel, resume, print logs.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Number of jobs, newest first.")] = 20,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """List the newest jobs.

    \b
    Example:
      kastor jobs list --limit 5
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import jobs
    from kastor.cli.console.output import Output

    jobs.list_jobs(limit, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def show(
    job: options.JobName, server: options.Server = None, api_key: options.ApiKey = None, as_json: options.Json = False
) -> None:
    """Show a job: settings, loss curve, last events.

    \b
    Example:
      kastor jobs show bvl8dymw0fhw
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import jobs
    from kastor.cli.console.output import Output

    jobs.show_job(job, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def cancel(
    job: options.JobName, server: options.Server = None, api_key: options.ApiKey = None, as_json: options.Json = False
) -> None:
    """Cancel a job; a running one stops within one step. A job that has ended stays as it is.

    \b
    Example:
      kastor jobs cancel bvl8dymw0fhw
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import jobs
    from kastor.cli.console.output import Output

    jobs.cancel_job(job, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def resume(
    job: options.JobName,
    detach: Annotated[bool, typer.Option("--detach", help="Start the job and return; needs a running server.")] = False,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: options.Json = False,
) -> None:
    """Resume a failed job from its last checkpoint, as a new job.

    The new job produces the same tuned model from the same data, with the result that the old one would have had.

    \b
    Example:
      kastor jobs resume bvl8dymw0fhw
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import jobs
    from kastor.cli.console.output import Output

    jobs.resume_job(job, detach, ServerAddress(server, api_key), Output.of(as_json))


@app.command()
def logs(
    job: options.JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing until the job has ended.")] = False,
    server: options.Server = None,
    api_key: options.ApiKey = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the log as it is stored: one JSON object per line.")
    ] = False,
) -> None:
    """Print a job's log.

    \b
    Example:
      kastor jobs logs -f bvl8dymw0fhw
    """
    from kastor.cli.client.connection import ServerAddress
    from kastor.cli.commands import jobs
    from kastor.cli.console.output import Output

    jobs.show_log(job, follow, ServerAddress(server, api_key), Output.of(as_json))
