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
        help="Talk to this server. Else: the one running on this data folder, or a private one for this command.",
    ),
]
ApiKey = Annotated[
    str | None, typer.Option("--api-key", metavar="KEY", envvar="KASTOR_API_KEY", help="Key that the server knows.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]
AcceptLicence = Annotated[
    bool,
    typer.Option("--accept-licence", help="Agree to the base model's licence, where it asks; else you are asked."),
]

JOB_HELP = "The job's id, or the name of its tuned model."
JobName = Annotated[str, typer.Argument(metavar="JOB", help=JOB_HELP)]

InputKey = Annotated[
    str | None, typer.Option(metavar="NAME", help="Field or CSV column of the inputs, if it is not text_input.")
]
OutputKey = Annotated[
    str | None, typer.Option(metavar="NAME", help="Field or CSV column of the outputs, if it is not output.")
]
Raised = Annotated[
    list[str] | None,
    typer.Option("--raise", metavar="NAME=NUMBER", help="Another number for a limit, as max_images=50; repeatable."),
]
Supervised = Annotated[
    SupervisedTurns, typer.Option("--supervise", help="Which of the model's turns a conversation teaches.")
]
