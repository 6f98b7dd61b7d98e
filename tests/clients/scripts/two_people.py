"""Two people and one tuned model: a stranger, a reader, a writer, an owner. Leaves what each was told in `told`."""

import os
from collections.abc import Callable
from typing import Any

import google.generativeai as genai
import pandas as pd
from google.api_core import exceptions


def as_owner() -> None:
    genai.configure(
        api_key=os.environ["OWNER_KEY"], transport="rest", client_options={"api_endpoint": os.environ["URL"]}
    )


def as_other() -> None:
    genai.configure(
        api_key=os.environ["OTHER_KEY"], transport="rest", client_options={"api_endpoint": os.environ["URL"]}
    )


def refusal(call: Callable[..., object], *arguments: object) -> list[str]:
    """The kind and the server's words of the error that the call raises."""
    try:
        call(*arguments)
    except exceptions.GoogleAPICallError as error:
        return [type(error).__name__, error.message.partition("enum-encoding%3Dint: ")[2]]
    return ["nothing", "was refused"]


told: dict[str, Any] = {}

as_owner()
frame = pd.DataFrame({"text_input": ["1", "2", "3"], "output": ["2", "3", "4"]})
operation = genai.create_tuned_model(
    "models/gemini-1.5-flash-001-tuning", frame, id="of-two-people", epoch_count=1, batch_size=4
)
name = told["name"] = operation.metadata.tuned_model

as_other()
told["stranger"] = refusal(genai.get_tuned_model, name)

as_owner()
permission = genai.get_tuned_model(name).permissions.create(role="READER", email_address="ben@example.org")

as_other()
told["reader"] = [genai.get_tuned_model(name).name, refusal(genai.update_tuned_model, name, {"description": "no"})]

as_owner()
permission.update({"role": "WRITER"})

as_other()
written = genai.update_tuned_model(name, {"description": "by the writer"})
told["writer"] = [written.description, refusal(genai.delete_tuned_model, name)]

as_owner()
model = genai.get_tuned_model(name)
model.permissions.transfer_ownership("ben@example.org")
roles = {p.email_address: p.role.name for p in model.permissions.list()}
told["former owner"] = [roles, refusal(genai.delete_tuned_model, name)]

as_other()
genai.delete_tuned_model(name)
told["in the end"] = refusal(genai.get_tuned_model, name)
