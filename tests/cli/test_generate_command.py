"""`kastor generate` against a server whose answers are known."""

import io
import json
import sys
from pathlib import Path

import pytest

from support.command_result import Kastor
from support.fake_kastor import MODEL, FakeServer, Reply, error_body

STREAM = f"/v1beta/{MODEL}:streamGenerateContent"


def event(text: str, **more: object) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}} | (
        {"finishReason": more.pop("finish")} if "finish" in more else {}
    )
    return b"data: " + json.dumps({"candidates": [candidate]} | more).encode() + b"\r\n\r\n"


@pytest.fixture
def answering(server: FakeServer) -> FakeServer:
    """The fake, with a tuned model that says forty-two in two pieces."""
    usage = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}
    body = event("forty") + event(" two", finish="STOP", usageMetadata=usage, modelVersion="smollm2-135m-instruct")
    server.on("POST", STREAM, Reply(body, headers={"content-type": "text/event-stream"}))
    server.on("GET", f"/v1beta/{MODEL}", {"name": MODEL, "state": "ACTIVE"})
    return server


def test_the_answer_and_a_line_end_are_all_that_is_on_stdout(kastor: Kastor, answering: FakeServer) -> None:
    ran = kastor("generate", MODEL, "forty one", "--server", answering.url)
    assert (ran.code, ran.out, ran.err) == (0, "forty two\n", "")


def test_an_answer_with_line_separators_arrives_whole(kastor: Kastor, server: FakeServer) -> None:
    said = "one\u2028two\x85three\x0cfour"
    document = {"candidates": [{"content": {"parts": [{"text": said}]}}]}
    body = b"data: " + json.dumps(document, ensure_ascii=False).encode() + b"\r\n\r\n" + event("", finish="STOP")
    server.on("POST", STREAM, Reply(body, headers={"content-type": "text/event-stream"}))
    server.on("GET", f"/v1beta/{MODEL}", {"name": MODEL, "state": "ACTIVE"})
    ran = kastor("generate", MODEL, "x", "--server", server.url)
    assert (ran.code, ran.out) == (0, said + "\n")


def test_options_become_the_generation_config(kastor: Kastor, answering: FakeServer) -> None:
    sampling = ["--temperature", "0", "--top-p", "0.9", "--top-k", "3", "--max-tokens", "5", "--seed", "7"]
    options = [*sampling, "--stop", "a", "--stop", "b"]
    kastor("generate", MODEL, "forty one", *options, "--server", answering.url)
    asked = answering.seen[-1]
    assert asked.query == {"alt": ["sse"]}
    assert asked.body["contents"] == [{"role": "user", "parts": [{"text": "forty one"}]}]
    assert asked.body["generationConfig"] == {
        "temperature": 0.0,
        "topP": 0.9,
        "topK": 3,
        "maxOutputTokens": 5,
        "seed": 7,
        "stopSequences": ["a", "b"],
    }


def test_as_json_the_whole_answer_comes_with_its_counts(kastor: Kastor, answering: FakeServer) -> None:
    document = kastor("generate", MODEL, "forty one", "--json", "--server", answering.url).json
    assert document["text"] == "forty two"
    assert document["finishReason"] == "STOP"
    assert document["usageMetadata"]["candidatesTokenCount"] == 3


def test_a_bare_name_means_the_tuned_model_of_that_name(kastor: Kastor, answering: FakeServer) -> None:
    assert kastor("generate", MODEL.split("/")[1], "forty one", "--server", answering.url).out == "forty two\n"


def test_a_bare_name_without_a_tuned_model_means_a_base(kastor: Kastor, answering: FakeServer) -> None:
    kastor("generate", "smollm2-135m-instruct", "forty one", "--server", answering.url)
    assert answering.seen[-1].path == "/v1beta/models/smollm2-135m-instruct:streamGenerateContent"


def test_a_dash_reads_the_prompt_from_stdin(
    kastor: Kastor, answering: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"forty one\n")))
    kastor("generate", MODEL, "-", "--server", answering.url)
    assert answering.seen[-1].body["contents"][0]["parts"] == [{"text": "forty one"}]


def test_a_system_instruction_is_given_as_text_or_as_a_file(
    kastor: Kastor, answering: FakeServer, tmp_path: Path
) -> None:
    file = tmp_path / "instruction.txt"
    file.write_text("Answer in capitals.\n")
    for given in ("Answer in capitals.", f"@{file}"):
        assert kastor("generate", MODEL, "hi", "--system", given, "--server", answering.url).code == 0
        assert answering.seen[-1].body["systemInstruction"] == {"parts": [{"text": "Answer in capitals."}]}
    kastor("generate", MODEL, "hi", "--server", answering.url)
    assert "systemInstruction" not in answering.seen[-1].body


def test_a_system_instruction_that_is_none_is_said_before_anything_is_asked(
    kastor: Kastor, server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "latin1").write_bytes(b"caf\xe9")
    for given in ("", "@", f"@{tmp_path}/missing", f"@{tmp_path}", f"@{tmp_path}/latin1"):
        ran = kastor("generate", MODEL, "hi", "--system", given, "--server", server.url)
        assert (ran.code, server.seen, len(ran.err.splitlines())) == (2, [], 1), ran.err
        assert "--system" in ran.err


def test_an_answer_cut_by_the_limit_is_said_on_stderr(kastor: Kastor, answering: FakeServer) -> None:
    usage = {"candidatesTokenCount": 1}
    answering.on("POST", STREAM, Reply(event("forty", finish="MAX_TOKENS", usageMetadata=usage)))
    ran = kastor("generate", MODEL, "forty one", "--server", answering.url)
    assert ran.out == "forty\n"
    assert "Stopped after 1 token;" in ran.err


def test_an_error_in_mid_stream_is_an_error(kastor: Kastor, answering: FakeServer) -> None:
    broken = b"data: " + json.dumps(error_body(503, "UNAVAILABLE", "The engine ended.")).encode() + b"\n\n"
    answering.on("POST", STREAM, Reply(event("forty") + broken))
    ran = kastor("generate", MODEL, "forty one", "--server", answering.url)
    assert ran.code == 1
    assert "Error: The engine ended." in ran.err


def test_a_missing_model_is_an_error(kastor: Kastor, server: FakeServer, tmp_path: Path) -> None:
    message = "Tuned model tunedModels/x does not exist."
    server.on("POST", "/v1beta/tunedModels/x:streamGenerateContent", Reply(error_body(404, "NOT_FOUND", message), 404))
    ran = kastor("generate", "tunedModels/x", "forty one", "--server", server.url)
    assert (ran.code, ran.err) == (1, f"Error: {message}\n")


def test_an_empty_prompt_is_refused(kastor: Kastor, server: FakeServer) -> None:
    ran = kastor("generate", MODEL, "", "--server", server.url)
    assert ran.code == 2 and "PROMPT: It is empty; give a text, or - to read it from stdin" in ran.err
