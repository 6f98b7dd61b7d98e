"""Options that several commands share."""

from typing import Annotated

import typer

from kastor.domain.content import SupervisedTurns

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="KASTOR_SERVER",
        help="Server to use.  [default: the one running on this data folder, else a private one for this command]",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", metavar="KEY", envvar="KASTOR_API_KEY", help="API key for the server.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else.")]
AcceptLicence = Annotated[
    bool,
    typer.Option(
        "--accept-licence", help="Agree to the base model's licence if it needs consent, instead of being asked."
    ),
]

JOB_HELP = "The job's id, or the name of its tuned model."
JobName = Annotated[str, typer.Argument(metavar="JOB", help=JOB_HELP)]

InputKey = Annotated[
    str | None, typer.Option(metavar="NAME", help="Field or CSV column of the inputs.  [default: text_input]")
]
OutputKey = Annotated[
    str | None, typer.Option(metavar="NAME", help="Field or CSV column of the outputs.  [default: output]")
]
Raised = Annotated[
    list[str] | None,
    typer.Option("--raise", metavar="NAME=NUMBER", help="Override a limit, such as max_images=50; repeatable."),
]
Supervised = Annotated[
    SupervisedTurns, typer.Option("--supervise", help="Which of the model's turns in a conversation are trained on.")
]
