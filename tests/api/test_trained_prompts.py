"""What a tuned model was tuned on, it may be asked with, in either profile; the rest is the profile's affair."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.formats.parse import decode_example
from kastor.dataset.validation.prompt_kinds import PromptKinds, prompt_kinds
from kastor.domain.job import TuningJob
from kastor.store.blobs.manifests import write_manifest
from support.api_world import World, error_of, fields_of

TUNED = "tunedModels/numbers"
SYSTEM = {"systemInstruction": {"parts": [{"text": "Answer in capitals."}]}}
TOOLS = {"tools": [{"functionDeclarations": [{"name": "time"}]}]}
TURNS = [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [{"text": "HI"}]}]
CALLED = [
    TURNS[0],
    {"role": "model", "parts": [{"functionCall": {"name": "time", "args": {}}}]},
]
PICTURE = {"inlineData": {"mimeType": "image/png", "data": "iVBORw0KGgo="}}
SHOWN = [{"role": "user", "parts": [PICTURE, {"text": "what?"}]}, TURNS[1]]
PLAIN: dict[str, Any] = {"contents": TURNS}
TRICKY = {
    "contents": [{"role": "user", "parts": [{"text": 'write {"systemInstruction": {}, "tools": [], "fileData": 1}'}]}]
    + TURNS[1:]
}
ROWS: dict[str, tuple[dict[str, Any], PromptKinds]] = {
    "plain": (PLAIN, PromptKinds()),
    "tricky": (TRICKY, PromptKinds()),
    "system": (PLAIN | SYSTEM, PromptKinds(system=True)),
    "declared": (PLAIN | TOOLS, PromptKinds(functions=True)),
    "called": ({"contents": CALLED} | TOOLS, PromptKinds(functions=True)),
    "media": ({"contents": SHOWN}, PromptKinds(media=True)),
    "all": ({"contents": SHOWN} | SYSTEM | TOOLS, PromptKinds(True, True, True)),
}


def tuned_on(world: World, *rows: dict[str, Any], model_id: str = "numbers", **changes: Any) -> TuningJob:
    """An active model with these examples, as a job keeps them."""
    job = world.active(model_id, **changes)
    lines = [encode_example(decode_example(json.dumps(row).encode())) for row in (PLAIN, *rows)]
    world.blobs.dataset(job.id).write_bytes(b"\n".join([*lines, b""]))
    return job


def ask(world: World, model: str = TUNED, verb: str = "generateContent", **body: Any) -> httpx.Response:
    whole = {"contents": [TURNS[0]]} | body
    counted = verb == "countTokens"
    return world.call("POST", f"/v1beta/{model}:{verb}", json={"generateContentRequest": whole} if counted else whole)


@pytest.mark.parametrize("name", ROWS)
def test_what_a_dataset_holds_is_found(tmp_path: Path, name: str) -> None:
    row, kinds = ROWS[name]
    file = tmp_path / "dataset.jsonl"
    file.write_bytes(b"\n".join(encode_example(decode_example(json.dumps(one).encode())) for one in (PLAIN, row)))
    assert prompt_kinds(file) == kinds


def test_the_examples_of_a_pair_tuning_hold_text_alone(world: World) -> None:
    assert prompt_kinds(world.blobs.dataset(world.active().id)) == PromptKinds()


def test_a_model_tuned_with_system_instructions_is_asked_with_them_in_the_strict_profile(world: World) -> None:
    tuned_on(world, PLAIN | SYSTEM)
    assert ask(world, **SYSTEM).status_code == 200
    refused = ask(world, **TOOLS)
    assert error_of(refused)["message"] == f"Function calling is not enabled for {TUNED}"
    assert "KASTOR_PROFILE=open" in refused.text


@pytest.mark.parametrize("verb", ["generateContent", "countTokens"])
def test_a_model_tuned_with_functions_is_asked_with_them_in_the_strict_profile(world: World, verb: str) -> None:
    tuned_on(world, {"contents": CALLED} | TOOLS)
    assert ask(world, verb=verb, **TOOLS).status_code == 200
    if verb == "generateContent":  # counting takes any system instruction
        refused = ask(world, **SYSTEM)
        assert error_of(refused)["message"] == f"Developer instruction is not enabled for {TUNED}"
        assert "tuned without one" in refused.text and "KASTOR_PROFILE=open" in refused.text


def test_a_model_tuned_on_text_reads_no_media_in_the_strict_profile_and_one_tuned_on_some_may(world: World) -> None:
    contents = [{"parts": [PICTURE]}]
    tuned_on(world, PLAIN)
    refused = ask(world, contents=contents)
    assert fields_of(refused) == ["contents[0].parts[0]"] and "was tuned on text alone" in refused.text
    tuned_on(world, {"contents": SHOWN}, model_id="seeing")
    asked = ask(world, "tunedModels/seeing", contents=contents)
    assert "reads text only" in error_of(asked)["message"], "the profile let it pass; this base has no eyes"


@pytest.mark.parametrize("damage", ["folder", "text", "shape"])
def test_a_damaged_dataset_is_not_blamed_on_the_prompt(world: World, damage: str) -> None:
    dataset = world.blobs.dataset(tuned_on(world, PLAIN | SYSTEM).id)
    if damage == "folder":
        dataset.unlink()
        dataset.mkdir()
    else:
        line = b'{"contents": 5, "systemInstruction": {}}' if damage == "shape" else dataset.read_bytes()[:-20]
        dataset.write_bytes(line + b"\n")
    error = error_of(ask(world, **SYSTEM))
    assert error["status"] == "DATA_LOSS" and "The dataset of job" in error["message"], error
    assert ask(world).status_code == 200  # what needs no look at the dataset is answered


def test_what_the_model_below_was_tuned_on_counts_as_well(world: World) -> None:
    first = tuned_on(world, PLAIN | SYSTEM)
    world.blobs.adapter(first.id).mkdir()
    write_manifest(world.blobs.adapter(first.id), {})
    source = {"tunedModelSource": {"tunedModel": TUNED}, "baseModel": None}
    tuned_on(world, model_id="second", **source)
    assert ask(world, "tunedModels/second", **SYSTEM).status_code == 200
    world.call("DELETE", f"/v1beta/{TUNED}")
    assert ask(world, "tunedModels/second", **SYSTEM).status_code == 400, "nobody knows any more"
