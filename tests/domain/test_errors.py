"""The error tree is whole: what is drawn is there, and each class is known wherever errors go."""

import re

import grpc
import pytest
from google.rpc import code_pb2

from kastor.api.http.errors import HTTP_STATUS
from kastor.domain import errors
from kastor.domain.errors import Code, KastorError
from kastor.serving.engine_protocol import ERRORS


def every(kind: type[KastorError] = KastorError) -> list[type[KastorError]]:
    """A class and all below it, as far as the domain declares them."""
    below = [found for child in kind.__subclasses__() for found in every(child)]
    return [kind, *below] if kind.__module__ == errors.__name__ else below


def test_the_drawing_shows_every_class_with_its_code_and_no_other() -> None:
    drawn = re.findall(r"[├└]── (\w+)\s+(\d+)", errors.__doc__ or "")
    assert sorted(drawn) == sorted((kind.__name__, str(int(kind.code))) for kind in every() if kind is not KastorError)


@pytest.mark.parametrize("code", list(Code), ids=str)
def test_a_code_is_googles_and_grpcs_and_has_an_http_status(code: Code) -> None:
    assert code_pb2.Code.Name(code) == code.name
    assert {status.name: status.value[0] for status in grpc.StatusCode}[code.name] == code
    assert 400 <= HTTP_STATUS[code] < 600


@pytest.mark.parametrize("kind", every(), ids=lambda kind: kind.__name__)
def test_every_error_crosses_from_the_generating_process_as_itself_or_as_the_class_above(
    kind: type[KastorError],
) -> None:
    known = next((above for above in kind.__mro__ if above.__name__ in ERRORS), None)
    assert kind is KastorError or (known is not None and known.code == kind.code)
