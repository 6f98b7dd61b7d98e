"""The unmodified google-genai SDK, in Gemini mode, against a real socket."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google import genai
from google.genai import errors, types

from kastor.domain.errors import Unavailable
from support.api_world import ALIAS, World, listening, training

pytestmark = pytest.mark.filterwarnings("ignore:The SDK's tuning implementation is experimental")
EXAMPLES = {"examples": {"examples": [{"textInput": str(i), "output": str(i + 1)} for i in range(15)]}}
DATASET = types.TuningDataset(examples=[types.TuningExample(text_input="1", output="2")])


@pytest.fixture
def client(world: World) -> Iterator[genai.Client]:
    with (
        listening(world) as url,
        training(world),
        genai.Client(api_key="x", http_options=types.HttpOptions(base_url=url)) as made,
    ):
        yield made


def tune(client: genai.Client, **config: Any) -> types.TuningJob:
    extra = types.HttpOptions(extra_body={"tuningTask": {"trainingData": EXAMPLES}})
    asked = types.CreateTuningJobConfig(tuned_model_display_name="numbers", http_options=extra, **config)
    return client.tunings.tune(base_model=ALIAS, training_dataset=DATASET, config=asked)


def ended(client: genai.Client, name: str) -> types.TuningJob:
    for _ in range(500):
        job = client.tunings.get(name=name)
        if job.has_ended:
            return job
        time.sleep(0.02)
    raise AssertionError("never ended")


def test_tune_with_extra_body_then_get_generate_stream_count_list_update_delete(client: genai.Client) -> None:
    job = tune(client, epoch_count=3)
    assert job.name is not None and job.name.startswith("tunedModels/numbers-")
    done = ended(client, job.name)
    assert done.state == types.JobState.JOB_STATE_SUCCEEDED
    assert done.tuned_model is not None and done.tuned_model.model == job.name

    answer = client.models.generate_content(model=job.name, contents="twenty two")
    assert answer.text == "twenty three"
    assert answer.model_version == "smollm2-135m-instruct"
    assert answer.usage_metadata is not None and answer.usage_metadata.total_token_count == 9

    config = types.GenerateContentConfig(temperature=0.1, top_k=5, max_output_tokens=7, stop_sequences=["x"], seed=3)
    pieces = list(client.models.generate_content_stream(model=job.name, contents="twenty two", config=config))
    assert [piece.text for piece in pieces] == ["twenty ", "three"]
    assert client.models.count_tokens(model=job.name, contents="a b c").total_tokens == 3

    listed = list(client.models.list(config={"query_base": False, "page_size": 1}))
    assert [model.name for model in listed] == [job.name]
    updated = client.models.update(model=job.name, config={"display_name": "new", "description": "d"})
    assert (updated.display_name, updated.description) == ("new", "d")
    client.models.delete(model=job.name)
    assert list(client.models.list(config={"query_base": False})) == []


def test_tune_without_extra_body_is_explained(client: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as caught:
        client.tunings.tune(base_model=ALIAS, training_dataset=DATASET)
    assert caught.value.code == 400
    assert caught.value.message is not None and "extra_body" in caught.value.message


def test_a_cancelled_job_has_ended_for_the_sdk(client: genai.Client) -> None:
    job = tune(client, epoch_count=1000)
    assert job.name is not None
    client.tunings.cancel(name=job.name)
    assert ended(client, job.name).state == types.JobState.JOB_STATE_FAILED


def test_a_chat_and_a_base_model_work(client: genai.Client) -> None:
    chat = client.chats.create(model=ALIAS)
    assert chat.send_message("hi").text == "twenty three"
    assert chat.send_message("again").text == "twenty three"
    names = [model.name for model in client.models.list()]
    assert ALIAS in names
    assert client.models.get(model=ALIAS).supported_actions == ["generateContent", "countTokens", "createTunedModel"]


def test_errors_reach_the_user_with_their_message(client: genai.Client, world: World) -> None:
    with pytest.raises(errors.ClientError, match="Tuned model tunedModels/x does not exist."):
        client.models.get(model="tunedModels/x")
    world.generator.error, world.generator.fails_at = Unavailable("The engine ended."), 1
    with pytest.raises(errors.ServerError, match="The engine ended."):
        list(client.models.generate_content_stream(model=ALIAS, contents="x"))
