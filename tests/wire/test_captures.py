"""Everything that real clients were seen to send is answered as was decided, in messages that Google's protos read."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from kastor.api.gemini.wire_names import HOW_TO_SEND_EXAMPLES
from kastor.api.http.endpoint import parse_query
from support.api_world import World
from support.capture_replay import NUM_SEVERAL, credential, prepared, replay
from support.captures import FOLDER, Capture, Decision, capture, captured, decisions
from support.google_messages import message_of, strict_error, strictly

needs_captures = pytest.mark.skipif(
    not FOLDER.is_dir(), reason=f"the recorded exchanges are not beside this clone ({FOLDER})"
)


@needs_captures
def test_every_capture_is_decided_about() -> None:
    assert sorted({decision.capture for decision in decisions()}) == captured()


@needs_captures
@pytest.mark.parametrize("decision", decisions(), ids=lambda decision: f"{decision.capture}-{decision.profile}")
def test_a_captured_request_gets_the_decided_answer(decision: Decision, world_of: Callable[[str, str], World]) -> None:
    asked = capture(decision.capture)
    world = world_of(decision.profile, credential(asked))
    prepared(world, asked, decision)
    answer = replay(world, asked, decision)
    assert answer.status_code == decision.status, answer.text
    assert "[DONE]" not in answer.text
    if decision.status >= 400:
        check_refusal(answer, decision)
    else:
        check_answer(answer, asked, decision)


def check_refusal(answer: httpx.Response, decision: Decision) -> None:
    """The refusal is Google's error message, and says what the client needs to know."""
    status = strict_error(answer.json(), decision.status)
    if decision.why.startswith("no examples"):
        assert HOW_TO_SEND_EXAMPLES in status.message
    if decision.why.startswith("defaultCheckpointId"):
        assert "Unknown name \"defaultCheckpointId\" at 'tuned_model': Cannot find field." in status.message


def check_answer(answer: httpx.Response, asked: Capture, decision: Decision) -> None:
    """The answer is the message of the method."""
    if asked.path.startswith("/$discovery"):
        document = answer.json()
        assert document["rootUrl"] and document["resources"]["media"]["methods"]["upload"]
    elif asked.path.endswith(":download"):
        assert answer.content == b"hello file"
    elif decision.place == "upload" or "/upload/" in asked.path:
        check_upload(answer, asked)
    else:
        found = [strictly(value, message_of(asked.method, asked.path)) for value in values_of(answer)]
        if decision.place == "several":
            check_list(found[0], asked)


def check_upload(answer: httpx.Response, asked: Capture) -> None:
    """A start tells where to go on, a chunk that it goes on, and the end what the file is."""
    multipart = "uploadType=multipart" in asked.target
    if "/upload/" in asked.path and not multipart:
        assert answer.headers["x-goog-upload-status"] == "active"
        assert answer.headers["x-goog-upload-url"] == answer.headers["location"]
        assert answer.content in (b"", b"{}\n", b"{}")
        return
    if asked.headers.get("x-goog-upload-command") == "upload":
        assert answer.headers["x-goog-upload-status"] == "active"
        return
    assert multipart or answer.headers["x-goog-upload-status"] == "final"
    file = strictly(answer.json(), message_of("POST", "/upload/v1beta/files")).file
    sizes = {"big-multichunk": 9_600_000, "upload_file": 17, "nonresumable": 17}
    assert file.size_bytes == next((size for part, size in sizes.items() if part in asked.name), 10)
    assert file.State.Name(file.state) == "ACTIVE"


def check_list(listed: Any, asked: Capture) -> None:
    """A page holds as much as was asked for, and tells of the next one if there is one."""
    query = parse_query(asked.target.partition("?")[2].encode("ascii"))
    size = int(query.get("page_size", 10))
    left = NUM_SEVERAL - (size if "page_token" in query else 0)
    assert len(listed.tuned_models) == min(size, left)
    assert bool(listed.next_page_token) == (left > size)


def values_of(answer: httpx.Response) -> list[dict[str, Any]]:
    """The JSON objects of an answer, whether alone, in an array, or as events."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        events = [event for event in answer.text.replace("\r\n", "\n").split("\n\n") if event]
        assert events and all(event.startswith("data: ") for event in events)
        return [json.loads(event.removeprefix("data: ")) for event in events]
    assert answer.headers["content-type"] == "application/json; charset=UTF-8"
    value = answer.json()
    return value if isinstance(value, list) else [value]
