"""Errors of the core in the words of a dialect."""

from collections.abc import Generator

import pytest

from kastor.api.gemini.wire_names import GEMINI_NAMES
from kastor.api.http.protojson import parse_message
from kastor.api.http.wire_names import WireNames
from kastor.api.kastor.jobs import NewJobIn
from kastor.api.kastor.wire_names import KASTOR_NAMES
from kastor.domain.errors import MODEL, FieldViolation, InvalidArgument, NotFound

NAMES = WireNames(
    fields={"rows[].input": "data.rows[].textInput", "num_epochs": "epochCount"},
    hints={"num_epochs": "; ask for fewer"},
    tuned_model=lambda model_id: f"tuned/{model_id}",
)


def test_fields_get_the_paths_of_the_dialect_and_the_message_lists_them_so() -> None:
    error = InvalidArgument.of_all((FieldViolation("rows[7].input", "is long"), FieldViolation("num_epochs", "is 0")))
    NAMES.translate(error)
    assert [violation.field for violation in error.violations] == ["data.rows[7].textInput", "epochCount"]
    assert error.message == "data.rows[7].textInput: is long; epochCount: is 0; ask for fewer"


def test_a_message_of_its_own_stays_and_names_the_model_by_its_name_on_the_wire() -> None:
    violations = (FieldViolation("num_epochs", f"not for {MODEL}"),)
    error = InvalidArgument(f"No JSON for {MODEL}", violations=violations, model_id="numbers")
    assert (error.message, error.violations[0].description) == ("No JSON for numbers", "not for numbers")
    NAMES.translate(error)
    assert error.message == "No JSON for tuned/numbers"
    assert error.violations == (FieldViolation("epochCount", "not for tuned/numbers; ask for fewer"),)


def test_a_handler_and_a_stream_raise_in_the_words_of_the_dialect() -> None:
    def fails() -> None:
        raise NotFound(f"Tuned model {MODEL} does not exist.", model_id="x")

    def breaks() -> Generator[int, None, None]:
        yield 1
        fails()

    for broken in (NAMES.translated(fails), lambda: list(NAMES.translated_stream(breaks()))):
        with pytest.raises(NotFound, match="Tuned model tuned/x does not exist"):
            broken()


def test_text_of_the_caller_is_not_taken_for_the_place_of_a_name() -> None:
    cause = NotFound(f"Tuned model {MODEL} cannot be used: {{model}}.jsonl is missing.", model_id="x")
    NAMES.translate(cause)
    assert cause.message == "Tuned model tuned/x cannot be used: {model}.jsonl is missing."
    error = NotFound("There is no base {model}.")
    NAMES.translate(error)
    assert error.message == "There is no base {model}."


def test_fields_of_a_message_that_does_not_fit_its_schema_keep_their_names() -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_message(NewJobIn, b'{"dataset": "files/x", "batch_size": 3}')
    GEMINI_NAMES.translate(caught.value)
    assert [violation.field for violation in caught.value.violations] == ["batch_size"]


def test_the_kastor_api_names_the_fields_of_its_own_requests() -> None:
    error = InvalidArgument.of("num_epochs", "0 is out of range")
    KASTOR_NAMES.translate(error)
    assert error.message == "hyperparameters.epochCount: 0 is out of range"
