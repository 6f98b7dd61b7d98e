"""tunedModels: create, get, list, patch, delete as the wire has them."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from kastor.api.gemini.tuned_models import TuningExamplesIn
from kastor.api.google.methods import VERSIONS
from kastor.api.http.protojson import PART
from kastor.dataset.formats.parse import decode_example
from kastor.domain.content import Example
from kastor.domain.errors import ResourceExhausted
from kastor.domain.job import State
from kastor.domain.request_limits import OPEN
from kastor.store.database import Database
from support.api_world import ALIAS, BASE, World, error_of, fields_of, pairs, tuning_body

EXAMPLES = "tuningTask.trainingData.examples.examples"


def create(world: World, body: object, query: str = "") -> Any:
    return world.call("POST", f"/v1beta/tunedModels{query}", json=body)


def with_hyperparameters(**asked: object) -> dict[str, Any]:
    body = tuning_body()
    body["tuningTask"]["hyperparameters"] = asked
    return body


@pytest.mark.parametrize("version", VERSIONS)
def test_every_version_serves_the_same(world: World, version: str) -> None:
    made = world.call("POST", f"{version}/tunedModels?tunedModelId=numbers", json=tuning_body())
    assert made.status_code == 200
    name = made.json()["name"]
    assert world.call("GET", f"{version}/{name}").json() == made.json()
    for path in ("tunedModels/numbers", "tunedModels", "models", "tunedModels/numbers/operations"):
        assert world.call("GET", f"{version}/{path}").status_code == 200
    assert world.call("DELETE", f"{version}/tunedModels/numbers").json() == {}


def test_create_answers_an_operation_with_nothing_that_is_not_known_yet(world: World) -> None:
    answer = create(world, tuning_body(), "?tunedModelId=numbers").json()
    operation = answer.pop("name")
    assert operation.startswith("tunedModels/numbers/operations/")
    assert answer == {
        "metadata": {
            "@type": "type.googleapis.com/google.ai.generativelanguage.v1beta.CreateTunedModelMetadata",
            "totalSteps": 19,
            "tunedModel": "tunedModels/numbers",
        }
    }
    assert world.woken.is_set()


def test_the_model_is_there_at_once_with_resolved_values_and_no_data(world: World) -> None:
    job = world.create()
    answer = world.call("GET", "/v1beta/tunedModels/numbers").json()
    assert answer == {
        "name": "tunedModels/numbers",
        "displayName": "number generator",
        "state": "CREATING",
        "baseModel": ALIAS,
        "temperature": 0.2,
        "topP": 0.9,
        "createTime": "2026-03-01T12:00:01.000000Z",
        "updateTime": "2026-03-01T12:00:01.000000Z",
        "tuningTask": {
            "startTime": "2026-03-01T12:00:01.000000Z",
            "hyperparameters": {"epochCount": 5, "batchSize": 4, "learningRate": 0.001},
        },
    }
    assert job.spec.base_model == BASE.removeprefix("models/")


def test_the_data_set_is_on_disk_before_the_job_can_be_claimed(world: World) -> None:
    job = world.create()
    lines = world.blobs.dataset(job.id).read_bytes().splitlines()
    assert [decode_example(line) for line in lines] == [Example.pair(str(i), str(i + 1)) for i in range(15)]


def test_snake_case_camel_case_numbers_as_text_and_nulls_mix(world: World) -> None:
    body = {
        "display_name": "mixed",
        "baseModel": "smollm2-135m-instruct",
        "description": None,
        "tuning_task": {
            "trainingData": {"examples": {"examples": [{"text_input": "1", "output": "2"}, *pairs(2)]}},
            "hyperparameters": {"epoch_count": 3.0, "batchSize": "2", "learning_rate": "0.002"},
        },
        "topK": 5.0,
    }
    name = create(world, body).json()["metadata"]["tunedModel"]
    answer = world.call("GET", f"/v1/{name}").json()
    assert answer["tuningTask"]["hyperparameters"] == {"epochCount": 3, "batchSize": 2, "learningRate": 0.002}
    assert answer["topK"] == 5
    assert answer["baseModel"] == BASE
    assert "description" not in answer


def test_a_multiplier_becomes_the_rate_and_is_never_said_again(world: World) -> None:
    name = create(world, with_hyperparameters(learningRateMultiplier=2)).json()["metadata"]["tunedModel"]
    for answer in (world.call("GET", f"/v1/{name}"), world.call("GET", "/v1/tunedModels")):
        assert '"learningRate": 0.002' in answer.text
        assert "ultiplier" not in answer.text and "trainingData" not in answer.text


def test_output_only_fields_of_a_create_are_ignored(world: World) -> None:
    body = tuning_body(name="tunedModels/other", state=2, createTime="2020-01-01T00:00:00Z")
    body["tuningTask"] |= {"snapshots": [{"step": 1}], "startTime": "2020-01-01T00:00:00Z"}
    assert create(world, body, "?tuned_model_id=mine").json()["metadata"]["tunedModel"] == "tunedModels/mine"


def test_an_id_is_made_of_the_display_name(world: World) -> None:
    name = create(world, tuning_body(displayName="Number Generator!")).json()["metadata"]["tunedModel"]
    assert name.startswith("tunedModels/number-generator-")


def test_no_examples_is_the_signature_of_the_sdks_bug_and_answered_so(world: World) -> None:
    for task in ({}, {"trainingData": {}}, {"trainingData": {"examples": {"examples": []}}}):
        answer = create(world, {"baseModel": ALIAS, "tuningTask": task})
        assert answer.status_code == 400
        assert "google-genai" in error_of(answer)["message"] and "extra_body" in error_of(answer)["message"]
        assert fields_of(answer) == [EXAMPLES]
    assert create(world, {"baseModel": ALIAS}).status_code == 400


@pytest.mark.parametrize(
    ("example", "field", "says"),
    [
        ({"textInput": 1, "output": "2"}, "textInput", "must be a text, not the number 1"),
        ({"text_input": "1", "output": True}, "output", "must be a text, not the truth value true"),
        ({"textInput": "1"}, "output", "is missing"),
        ({"output": "1"}, "textInput", "is missing"),
        ({"textInput": "1", "output": ""}, "output", "is empty"),
        ({"textInput": "x" * 41_000, "output": "2"}, "textInput", "41,000 characters, at most 40,000"),
        ({"textInput": "x", "output": "ü" * 5_001}, "output", "5,001 characters, at most 5,000"),
    ],
)
def test_a_bad_example_is_named_by_index_and_field(world: World, example: object, field: str, says: str) -> None:
    answer = create(world, tuning_body([*pairs(3), example]))
    assert answer.status_code == 400
    assert fields_of(answer) == [f"{EXAMPLES}[3].{field}"]
    assert says in error_of(answer)["message"]
    assert error_of(answer)["message"].startswith(f"{EXAMPLES}[3].{field}: ")


def test_a_text_at_the_limit_passes_and_the_open_profile_has_none(world: World, store: Database) -> None:
    at_limit = [{"textInput": "x" * 40_000, "output": "y" * 5_000}]
    assert create(world, tuning_body(at_limit)).status_code == 200
    lifted = World(world.folder, store, limits=OPEN)
    assert create(lifted, tuning_body([{"textInput": "x" * 50_000, "output": "y" * 6_000}])).status_code == 200


def test_a_bad_example_far_behind_is_named_by_its_place(world: World) -> None:
    far = [{"textInput": "1", "output": "2"}] * 2_345 + [{"textInput": "1", "output": 5, "x": 1}]
    at = "tuningTask.trainingData.examples.examples[2345].output"
    assert at in fields_of(create(world, tuning_body(far)))


def test_of_many_bad_examples_no_more_than_a_part_is_looked_at() -> None:
    body: dict[str, Any] = {"examples": [{}] * 50_000}
    with pytest.raises(ValidationError) as refused:
        TuningExamplesIn.model_validate(body)
    assert refused.value.error_count() == 2 * PART


def test_of_very_many_bad_examples_the_first_are_named(world: World) -> None:
    answer = create(world, tuning_body([{"textInput": "1", "output": 5}] * 5_000))
    assert len(fields_of(answer)) == 100
    assert "and many more" in error_of(answer)["message"]
    assert len(answer.content) < 20_000


@pytest.mark.parametrize("examples", [{"a": 1}, "text", [1], [None], [["1", "2"]]])
def test_examples_of_a_wrong_shape_are_refused(world: World, examples: object) -> None:
    assert create(world, tuning_body(examples)).status_code == 400


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"epochCount": 0}, "epochCount"),
        ({"epochCount": 2.5}, "epochCount"),
        ({"epochCount": "many"}, "epochCount"),
        ({"epochCount": True}, "epochCount"),
        ({"batchSize": -1}, "batchSize"),
        ({"batchSize": 10**12}, "batchSize"),
        ({"learningRate": 0}, "learningRate"),
        ({"learningRate": "NaN"}, "learningRate"),
        ({"learningRate": 1e-50}, "learningRate"),
        ({"learningRate": "1e-46"}, "learningRate"),
        ({"learningRateMultiplier": 1e-43}, "learningRateMultiplier"),
        ({"learningRateMultiplier": 1e300}, "learningRateMultiplier"),
        ({"learningRate": "1e400"}, "learningRate"),
        ({"learningRate": {}}, "learningRate"),
        ({"learningRate": 0.1, "learningRateMultiplier": 1}, "learningRateMultiplier"),
    ],
)
def test_a_bad_hyperparameter_is_named(world: World, asked: dict[str, object], field: str) -> None:
    answer = create(world, with_hyperparameters(**asked))
    assert answer.status_code == 400
    assert fields_of(answer) == [f"tuningTask.hyperparameters.{field}"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"displayName": "x" * 41}, "displayName"),
        ({"displayName": 5}, "displayName"),
        ({"temperature": 1.5}, "temperature"),
        ({"topP": 0}, "topP"),
        ({"topK": 0}, "topK"),
        ({"tunedModelSource": {"tunedModel": "tunedModels/x"}}, "tunedModelSource"),
        ({"baseModel": "", "tunedModelSource": {"tunedModel": "models/x"}}, "tunedModelSource.tunedModel"),
        ({"readerProjectNumbers": ["1"]}, "readerProjectNumbers"),
        ({"baseModel": ""}, "baseModel"),
    ],
)
def test_a_field_that_cannot_be_honoured_is_refused_by_name(
    world: World, changes: dict[str, object], field: str
) -> None:
    answer = create(world, tuning_body(**changes))
    assert answer.status_code == 400
    assert fields_of(answer) == [field]


@pytest.mark.parametrize("field", ["displayName", "description"])
def test_a_text_that_no_database_keeps_is_refused(world: World, field: str) -> None:
    answer = create(world, tuning_body(**{field: "a\0b"}))
    assert answer.status_code == 400
    assert fields_of(answer) == [field]


def test_tuning_an_unknown_base_names_the_field_and_the_near_names(world: World) -> None:
    answer = create(world, tuning_body(baseModel="models/gemini-1.5-flash-tuning"))
    assert answer.status_code == 400
    assert fields_of(answer) == ["baseModel"]
    assert ALIAS in error_of(answer)["message"]


def test_a_prefix_written_twice_names_no_base(world: World) -> None:
    answer = create(world, tuning_body(baseModel=f"models/{BASE}"))
    assert answer.status_code == 400
    assert fields_of(answer) == ["baseModel"]


@pytest.mark.parametrize("model_id", ["Upper", "9digit", "ends-", "x" * 41, "a_b", "a/b", "ü"])
def test_a_bad_id_is_refused(world: World, model_id: str) -> None:
    answer = create(world, tuning_body(), f"?tunedModelId={model_id.replace('/', '%2F')}")
    assert answer.status_code == 400
    assert fields_of(answer) == ["tunedModelId"]


def test_a_taken_id_is_a_conflict_and_leaves_no_files(world: World) -> None:
    first = world.create("mine")
    answer = create(world, tuning_body(), "?tunedModelId=mine")
    assert answer.status_code == 409
    assert error_of(answer)["status"] == "ALREADY_EXISTS"
    assert [path.name for path in (world.folder / "jobs").iterdir()] == [first.id]


def test_a_full_disk_is_a_clean_refusal_and_nothing_stays(world: World, store: Database) -> None:
    class FullBlobs(type(world.blobs)):  # type: ignore[misc]
        def write_dataset(self, job_id: str, lines: object) -> None:
            self.job_dir(job_id).mkdir(parents=True)
            raise ResourceExhausted("No space left in /data; free some and try again.")

    world.service._blobs = FullBlobs(world.folder)
    answer = create(world, tuning_body())
    assert answer.status_code == 429
    assert "No space left" in error_of(answer)["message"]
    assert list((world.folder / "jobs").iterdir()) == []
    assert world.call("GET", "/v1/tunedModels").json() == {}


def test_an_unknown_field_gets_googles_message_and_path(world: World) -> None:
    body = tuning_body(trainingSteps=3)
    message = error_of(create(world, body))["message"]
    assert message == (
        "Invalid JSON payload received. Unknown name \"trainingSteps\" at 'tuned_model': Cannot find field."
    )
    nested = error_of(create(world, with_hyperparameters(epochs=3)))["message"]
    assert "Unknown name \"epochs\" at 'tuned_model.tuning_task.hyperparameters'" in nested


def test_a_field_in_both_spellings_is_refused(world: World) -> None:
    answer = create(world, tuning_body(display_name="other"))
    assert answer.status_code == 400
    assert "given twice" in error_of(answer)["message"]


def test_get_of_nothing_has_googles_text(world: World) -> None:
    answer = world.call("GET", "/v1beta/tunedModels/x")
    assert answer.status_code == 404
    assert error_of(answer)["message"] == "Tuned model tunedModels/x does not exist."


def test_an_active_model_shows_state_on_a_line_of_its_own_and_every_snapshot(world: World) -> None:
    world.active()
    answer = world.call("GET", "/v1beta/tunedModels/numbers")
    assert '\n  "state": "ACTIVE",\n' in answer.text
    snapshots = answer.json()["tuningTask"]["snapshots"]
    assert [s["step"] for s in snapshots] == list(range(1, 20))
    assert snapshots[-1].keys() == {"step", "epoch", "meanLoss", "computeTime"}
    assert (snapshots[-1]["epoch"], snapshots[-1]["meanLoss"]) == (5, 1.4020672)
    assert answer.json()["tuningTask"]["completeTime"].endswith("Z")


def test_a_loss_of_zero_is_written_all_the_same(world: World) -> None:
    world.create()
    world.step(world.start(), 1, mean_loss=0.0)
    (snapshot,) = world.call("GET", "/v1/tunedModels/numbers").json()["tuningTask"]["snapshots"]
    assert 0 < snapshot["meanLoss"] < 1e-6


def test_pretty_print_can_be_turned_off(world: World) -> None:
    world.create()
    for query in ("prettyPrint=false", "pretty_print=0", "$prettyPrint=false"):
        text = world.call("GET", f"/v1/tunedModels/numbers?{query}").text
        assert "\n" not in text and json.loads(text)["name"] == "tunedModels/numbers"


@pytest.mark.parametrize(("size", "token"), [("pageSize", "pageToken"), ("page_size", "page_token")])
def test_pages_of_one_hold_every_model_once_newest_first(world: World, size: str, token: str) -> None:
    for model_id in ("one", "two", "three"):
        world.create(model_id)
    seen, glue = [], ""
    while True:
        page = world.call("GET", f"/v1beta/tunedModels?{size}=1{glue}").json()
        seen += [model["name"] for model in page["tunedModels"]]
        if "nextPageToken" not in page:
            break
        glue = f"&{token}={page['nextPageToken']}"
    assert seen == ["tunedModels/three", "tunedModels/two", "tunedModels/one"]


def test_a_key_glued_onto_the_page_token_is_cut_off_and_used(world: World, store: Database) -> None:
    locked = World(world.folder, store, keys={"ada@example.org": "K"})
    for model_id in ("one", "two"):
        locked.call("POST", f"/v1beta/tunedModels?tunedModelId={model_id}&key=K", json=tuning_body())
    first = locked.call("GET", "/v1beta/tunedModels?page_size=1?key=K").json()
    second = locked.call("GET", f"/v1beta/tunedModels?page_size=1&page_token={first['nextPageToken']}?key=K").json()
    assert [m["name"] for m in second["tunedModels"]] == ["tunedModels/one"]


@pytest.mark.parametrize("query", ["pageSize=-1", "pageSize=x", "pageToken=zzz", "pageToken=W10", "filter=a:b"])
def test_a_bad_paging_value_is_named(world: World, query: str) -> None:
    answer = world.call("GET", f"/v1beta/tunedModels?{query}")
    assert answer.status_code == 400
    assert fields_of(answer) == [query.partition("=")[0]]


def test_a_page_too_large_is_cut_and_a_default_one_holds_ten(world: World) -> None:
    for number in range(11):
        world.create(f"m{number}")
    assert len(world.call("GET", "/v1/tunedModels?pageSize=100000").json()["tunedModels"]) == 11
    assert len(world.call("GET", "/v1/tunedModels").json()["tunedModels"]) == 10
    assert len(world.call("GET", "/v1/tunedModels?pageSize=0").json()["tunedModels"]) == 10


def test_an_empty_list_is_an_empty_object(world: World) -> None:
    assert world.call("GET", "/v1beta/tunedModels").json() == {}


def patch(world: World, body: object, query: str = "") -> Any:
    return world.call("PATCH", f"/v1beta/tunedModels/numbers{query}", json=body)


def test_patch_with_a_mask_sets_exactly_its_fields_and_clears_absent_ones(world: World) -> None:
    world.create(description="d", temperature=0.7)
    for query in ("?updateMask=displayName,temperature,topK", "?update_mask=display_name,temperature,top_k"):
        answer = patch(world, {"displayName": "new", "description": "ignored", "topK": 3}, query).json()
        assert (answer["displayName"], answer["description"]) == ("new", "d")
        assert (answer["temperature"], answer["topK"]) == (0.2, 3)


def test_patch_without_a_mask_sets_what_the_body_fills(world: World) -> None:
    world.create(description="d", temperature=0)
    answer = patch(world, {"displayName": "", "description": "e"}).json()
    assert (answer["displayName"], answer["description"], answer["temperature"]) == ("number generator", "e", 0.0)


def test_patch_ignores_what_only_the_service_sets(world: World) -> None:
    world.active()
    whole = world.call("GET", "/v1beta/tunedModels/numbers").json() | {"state": 1, "baseModel": "models/other"}
    mask = "?updateMask=baseModel,displayName,state,createTime,tuningTask.hyperparameters"
    answer = patch(world, whole | {"displayName": "B"}, mask).json()
    assert (answer["displayName"], answer["state"], answer["baseModel"]) == ("B", "ACTIVE", ALIAS)
    assert answer["updateTime"] > whole["updateTime"]


def test_patch_with_a_star_sets_all(world: World) -> None:
    world.create(description="d", topK=4)
    answer = patch(world, {"displayName": "only"}, "?updateMask=*").json()
    assert answer["displayName"] == "only"
    assert "description" not in answer and "topK" not in answer


def test_patch_in_every_style_that_clients_were_seen_to_use(world: World) -> None:
    world.active(description="d", topK=4)
    echo = world.call("GET", "/v1beta/tunedModels/numbers").json() | {"state": 2}
    for body, query, changed in (
        ({"displayName": "n", "description": "e"}, "", {"displayName": "n", "description": "e"}),
        ({"display_name": "m", "description": "f"}, "?update_mask=display_name,description", {"displayName": "m"}),
        (
            echo | {"temperature": 0.2, "topP": 0.5, "topK": 7},
            "?updateMask=temperature%2CtopP%2CtopK&%24alt=json%3Benum-encoding%3Dint",
            {"temperature": 0.2, "topP": 0.5, "topK": 7, "description": "f"},
        ),
        (
            {"displayName": "B", "description": "q", "temperature": 0.3},
            "?updateMask=baseModel,displayName,description,temperature,topP,topK,state,createTime,updateTime,tuningTask",
            {"displayName": "B", "temperature": 0.3, "topP": 0.9},  # the base's again
        ),
        ({"readerProjectNumbers": []}, "?updateMask=readerProjectNumbers", {"displayName": "B"}),
        ({"description": "g"}, "?updateMask= description , tuningTask.snapshots.step,name", {"description": "g"}),
        ({"name": "tunedModels/other", "displayName": "C"}, "", {"name": "tunedModels/numbers", "displayName": "C"}),
    ):
        answer = patch(world, body, query)
        assert answer.status_code == 200, answer.text
        assert answer.json() == answer.json() | changed
        assert world.call("GET", "/v1beta/tunedModels/numbers").json() == answer.json()


@pytest.mark.parametrize(
    ("body", "query", "field"),
    [
        ({}, "?updateMask=colour", "updateMask"),
        ({"displayName": "x"}, "?updateMask=displayName.text", "updateMask"),
        ({"readerProjectNumbers": ["1"]}, "?updateMask=*", "readerProjectNumbers"),
        ({"displayName": "x" * 41}, "", "displayName"),
        ({"temperature": 2}, "?updateMask=temperature", "temperature"),
        ({"readerProjectNumbers": [1]}, "", "readerProjectNumbers"),
        ({"defaultCheckpointId": "1"}, "", "tuned_model"),
    ],
)
def test_a_bad_patch_is_refused_and_changes_nothing(world: World, body: object, query: str, field: str) -> None:
    world.create()
    before = world.call("GET", "/v1/tunedModels/numbers").text
    answer = patch(world, body, query)
    assert answer.status_code == 400
    assert fields_of(answer) == [field]
    assert world.call("GET", "/v1/tunedModels/numbers").text == before


def test_delete_takes_model_job_and_files_and_frees_the_id(world: World) -> None:
    job = world.active()
    assert world.call("DELETE", "/v1beta/tunedModels/numbers").json() == {}
    assert world.call("GET", "/v1beta/tunedModels/numbers").status_code == 404
    assert world.call("GET", f"/v1/tunedModels/numbers/operations/{job.id}").status_code == 404
    assert world.call("GET", f"/kastor/v1/jobs/{job.id}").status_code == 404
    assert not world.blobs.job_dir(job.id).exists()
    assert world.call("DELETE", "/v1beta/tunedModels/numbers").status_code == 404
    world.create("numbers")


def test_delete_in_mid_training_hides_the_model_at_once_and_cleans_up_when_the_worker_is_gone(world: World) -> None:
    world.create()
    job = world.start()
    assert world.call("DELETE", "/v1beta/tunedModels/numbers").json() == {}
    assert world.call("GET", "/v1beta/tunedModels/numbers").status_code == 404
    assert world.call("GET", "/v1beta/tunedModels").json() == {}
    assert world.step(job, 1) is State.CANCELLING  # what tells the worker
    assert world.blobs.dataset(job.id).exists()
    again = world.create("numbers")
    world.jobs.move(world.jobs.get(job.id), State.CANCELLED, at=world.clock())
    world.service.delete_orphans()
    assert not world.blobs.job_dir(job.id).exists()
    assert [j.id for j in world.jobs.page(limit=9)] == [again.id]
    assert world.blobs.dataset(again.id).exists()


def test_models_are_listed_with_the_alias_last_and_honest(world: World) -> None:
    models = world.call("GET", "/v1beta/models").json()["models"]
    assert [m["name"] for m in models] == [BASE, "models/kastor-nano-vl", "models/gemma-3-270m", ALIAS]
    assert all({"createTunedModel", "generateContent"} <= set(m["supportedGenerationMethods"]) for m in models)
    assert "smollm2-135m-instruct" in models[-1]["description"]
    assert world.call("GET", f"/v1beta/{ALIAS}").json() == models[-1]
    first = world.call("GET", "/v1beta/models?pageSize=1").json()
    second = world.call("GET", f"/v1beta/models?pageSize=3&pageToken={first['nextPageToken']}").json()
    assert first["models"] + second["models"] == models
    assert "nextPageToken" not in second


def test_an_unknown_base_model_is_not_found(world: World) -> None:
    assert world.call("GET", "/v1beta/models/smollm").status_code == 404
