"""A script that names no server, and what it is told when it asks for what is not to be had. Leaves it in `told`."""

from collections.abc import Callable
from typing import Any

from google import genai
from google.genai import errors

BASE = "models/gemini-1.5-flash-001-tuning"


def refusal(call: Callable[..., object], **arguments: object) -> list[object]:
    """Code, status and message of the error that the call raises."""
    try:
        call(**arguments)
    except errors.APIError as error:
        return [error.code, error.status, error.message]
    return ["nothing was refused"]


client = genai.Client()
told: dict[str, Any] = {"models": [model.name for model in client.models.list()]}

chat = client.chats.create(
    model=BASE, config={"max_output_tokens": 4, "temperature": 0, "system_instruction": "Count."}
)
told["chat"] = [chat.send_message("one").text, chat.send_message("two").text]

told["missing"] = refusal(client.models.get, model="tunedModels/x")
told["modality"] = refusal(
    client.models.generate_content, model=BASE, contents="x", config={"response_modalities": ["AUDIO"]}
)
stranger = genai.Client(api_key="wrong")
told["wrong key"] = refusal(stranger.models.get, model=BASE)
