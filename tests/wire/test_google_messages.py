"""The judge of the wire's tests: it lets nothing pass that a client of Google's would choke on."""

from typing import Any

import google.ai.generativelanguage_v1beta as glm
import pytest
from google.longrunning import operations_pb2
from google.protobuf import json_format

from support.google_messages import Message, message_of, strict_error, strictly

TUNED_MODEL = glm.TunedModel.pb()
METADATA = "type.googleapis.com/google.ai.generativelanguage.v1beta.CreateTunedModelMetadata"


def test_a_well_written_message_is_read() -> None:
    value = {"name": "tunedModels/x", "state": "ACTIVE", "temperature": 0.0, "createTime": "2026-03-01T12:00:00Z"}
    assert strictly(value, TUNED_MODEL).name == "tunedModels/x"


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (TUNED_MODEL, {"state": 2}, "the number 2 of an enum"),
        (TUNED_MODEL, {"state": "STATE_UNSPECIFIED"}, "an enum's default"),
        (TUNED_MODEL, {"display_name": "x"}, "not the camelCase name"),
        (TUNED_MODEL, {"description": ""}, "default value"),
        (TUNED_MODEL, {"temperature": None}, "default value"),
        (TUNED_MODEL, {"tuningTask": {"snapshots": []}}, "an empty list"),
        (TUNED_MODEL, {"tuningTask": {"trainingData": {}}}, "never given away"),
        (TUNED_MODEL, {"tuningTask": {"hyperparameters": {"learningRateMultiplier": 1.0}}}, "never given away"),
        (TUNED_MODEL, {"tuningTask": {"snapshots": [{"step": 1.0}]}}, "not a whole number"),
        (TUNED_MODEL, {"readerProjectNumbers": [1]}, "64-bit numbers are texts"),
        (glm.File.pb(), {"sizeBytes": 10}, "64-bit numbers are texts"),
        (operations_pb2.Operation, {"metadata": {"@type": METADATA, "completedSteps": 0}}, "default value"),
        (operations_pb2.Operation, {"done": False}, "default value"),
    ],
)
def test_what_a_lenient_reader_would_pass_is_told(kind: Message, value: dict[str, Any], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        strictly(value, kind)


def test_an_unknown_field_is_told() -> None:
    with pytest.raises(json_format.ParseError, match="madeUp"):
        strictly({"madeUp": 1}, TUNED_MODEL)


def test_an_unknown_type_in_an_operation_is_told() -> None:
    with pytest.raises(json_format.ParseError, match="Unknown"):
        strictly({"metadata": {"@type": "type.googleapis.com/Unknown"}}, operations_pb2.Operation)


@pytest.mark.parametrize(
    "error",
    [
        {"code": 400, "message": "m", "status": "NOT_A_STATUS"},
        {"code": 404, "message": "m", "status": "INVALID_ARGUMENT"},
        {"code": 400, "message": "m", "status": "INVALID_ARGUMENT", "details": [{"@type": METADATA, "totalSteps": 1}]},
    ],
)
def test_an_error_of_another_shape_is_told(error: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        strict_error({"error": error}, 400)


def test_a_method_is_found_by_its_path() -> None:
    assert message_of("GET", "/v1/tunedModels/a-1/operations/o1") is operations_pb2.Operation
    assert message_of("POST", "/v1beta/models/a.b:countTokens") is glm.CountTokensResponse.pb()
