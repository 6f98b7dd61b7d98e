"""The curl quick start of Google's tutorial, as people paste it: only the host differs."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kastor.store.database import Database
from support.api_world import World, listening, training

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not on this machine")

CREATE = """
      {
        "display_name": "number generator model",
        "base_model": "models/gemini-1.5-flash-001-tuning",
        "tuning_task": {
          "hyperparameters": {
            "batch_size": 2,
            "learning_rate": 0.001,
            "epoch_count":5,
          },
          "training_data": {
            "examples": {
              "examples": [
                {
                    "text_input": "1",
                    "output": "2",
                },{
                    "text_input": "3",
                    "output": "4",
                },{
                    "text_input": "twenty two",
                    "output": "twenty three",
                },{
                    "text_input": "-3",
                    "output": "-2",
                }
              ]
            }
          }
        }
      }"""


@pytest.fixture(params=["key", "bearer"])
def auth(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(world: World, store: Database) -> Iterator[str]:
    locked = World(world.folder, store, keys={"ada@example.org": "K"})
    with listening(locked) as base, training(locked):
        yield base


class Script:
    """What the tutorial's shell script does."""

    def __init__(self, folder: Path, url: str, auth: str) -> None:
        self._folder, self._url, self._auth = folder, url, auth

    def curl(self, target: str, *options: str) -> str:
        if self._auth == "key":
            target += ("&" if "?" in target else "?") + "key=K"
        else:
            options = ("-H", "Authorization: Bearer K", "-H", "x-goog-user-project: p", *options)
        command = ["curl", "-sS", "--noproxy", "*", *options, self._url + target]
        return subprocess.run(command, capture_output=True, check=True, cwd=self._folder, timeout=20).stdout.decode()

    def poll(self, operation: str) -> list[float | None]:
        """The percentages seen until the operation was done."""
        seen: list[float | None] = []
        for _ in range(400):
            time.sleep(0.02)
            status = json.loads(self.curl(f"/v1/{operation}", "-H", "Content-Type: application/json"))
            seen.append(status["metadata"].get("completedPercent"))
            if status.get("done"):
                return seen
        raise AssertionError("never done")


def test_the_quick_start_works_word_for_word(tmp_path: Path, url: str, auth: str) -> None:
    script = Script(tmp_path, url, auth)
    content_type = ("-H", "Content-Type: application/json") if auth == "bearer" else ()
    (tmp_path / "body.txt").write_text(CREATE)
    created = json.loads(script.curl("/v1beta/tunedModels", "-X", "POST", *content_type, "-d", "@body.txt"))
    operation, model = created["name"], created["metadata"]["tunedModel"]
    assert created["metadata"]["totalSteps"] == 10

    seen = script.poll(operation)
    assert seen[-1] == 100

    shown = script.curl(f"/v1beta/{model}")
    assert '  "state": "ACTIVE",' in shown.splitlines()

    prompt = '{ "contents": [{ "parts": [{ "text": "LXIII" }] }] }'
    answer = json.loads(script.curl(f"/v1beta/{model}:generateContent", "-X", "POST", "-d", prompt))
    assert answer["candidates"][0]["content"]["parts"][0]["text"] == "twenty three"

    for _ in range(5):
        script.curl("/v1beta/tunedModels", "-X", "POST", "-d", "@body.txt")
    first = json.loads(script.curl("/v1beta/tunedModels?page_size=5"))
    assert len(first["tunedModels"]) == 5
    token = first["nextPageToken"]
    glued = f"/v1beta/tunedModels?page_size=5&page_token={token}"
    second = json.loads(script.curl(glued + "?key=K" if auth == "key" else glued))
    assert [m["name"] for m in second["tunedModels"]] == [model]

    assert json.loads(script.curl(f"/v1beta/{model}", "-X", "DELETE")) == {}
    assert json.loads(script.curl(f"/v1beta/{model}"))["error"]["status"] == "NOT_FOUND"


def test_a_stream_arrives_piece_by_piece(tmp_path: Path, world: World) -> None:
    world.generator.words = ("one ", "two ", "three")
    with listening(world) as base:
        script = Script(tmp_path, base, "key")
        prompt = '{ "contents": [{ "parts": [{ "text": "x" }] }], }'
        target = "/v1beta/models/smollm2-135m-instruct:streamGenerateContent"
        events = script.curl(f"{target}?alt=sse", "-N", "-d", prompt).split("\r\n\r\n")
        assert [json.loads(e.removeprefix("data: "))["candidates"][0]["content"]["parts"] for e in events if e] == [
            [{"text": word}] for word in world.generator.words
        ]
        assert len(json.loads(script.curl(target, "-N", "-d", prompt))) == 3


def test_a_patch_in_snake_case_works(tmp_path: Path, world: World) -> None:
    world.create()
    with listening(world) as base:
        target = "/v1beta/tunedModels/numbers?update_mask=display_name,description"
        body = '{"display_name": "n", "description": "d",}'
        changed = json.loads(Script(tmp_path, base, "key").curl(target, "-X", "PATCH", "-d", body))
        assert (changed["displayName"], changed["description"]) == ("n", "d")
