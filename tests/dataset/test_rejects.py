"""Refused rows are written as they stood, with what is wrong with them."""

import base64
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from kastor.dataset.validation.rejected_rows import RejectedRowsFile
from kastor.dataset.validation.report import DatasetValidation
from kastor.dataset.validation.validator import BaseModelLimits, DatasetValidator
from kastor.domain.dataset_limits import OPEN_DATASET

GOOD = b'{"text_input": "1", "output": "2"}'
BAD_JSON, BAD_TEXT = b"{bad \xff bytes", '{"text_input": "日本",  "output": ""}'.encode()


def rejected(tmp_path: Path, data: Path, validation: Path | None = None) -> list[dict[str, Any]]:
    target = tmp_path / "rejects.jsonl"
    gate = DatasetValidator(OPEN_DATASET, BaseModelLimits("models/b", 100, None, None), lambda media: {})
    with target.open("w", encoding="utf-8") as file:
        DatasetValidation(gate, data, validation).run(on_verdict=RejectedRowsFile(file).add)
    return [json.loads(line) for line in target.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_rows_come_back_byte_for_byte(tmp_path: Path, packed: Callable[[bytes], bytes]) -> None:
    data = tmp_path / "data.jsonl"
    data.write_bytes(packed(b"\n".join([GOOD, BAD_JSON, b"", GOOD, BAD_TEXT + b"\r", GOOD])))
    found = rejected(tmp_path, data)
    assert [(one["line"], one["outcome"], one["issues"][0]["rule"]) for one in found] == [
        (2, "rejected", "not_json"),
        (5, "rejected", "empty_output"),
    ]
    assert [one["row"] for one in found] == [None, BAD_TEXT.decode()]
    assert base64.b64decode(found[0]["rowBase64"]) == BAD_JSON


def test_every_line_is_json_to_a_strict_reader(tmp_path: Path) -> None:
    data = tmp_path / os.fsdecode(b"d\xff.jsonl")
    data.write_bytes(b'\xed\xa0\x80\n{"text_input": "\\ud800", "output": ""}\n' + GOOD)
    rejected(tmp_path, data)
    for line in (tmp_path / "rejects.jsonl").read_bytes().splitlines():
        orjson.loads(line)


def test_rows_of_both_files_name_their_file(tmp_path: Path) -> None:
    data, held_out = tmp_path / "data.jsonl", tmp_path / "held-out.jsonl"
    data.write_bytes(BAD_TEXT + b"\n" + GOOD)
    held_out.write_bytes(GOOD + b"\n" + BAD_TEXT)
    found = rejected(tmp_path, data, held_out)
    assert [(one["file"], one["line"]) for one in found] == [("data.jsonl", 1), ("held-out.jsonl", 2)]
    assert {one["row"] for one in found} == {BAD_TEXT.decode()}


@pytest.mark.parametrize(("name", "text"), [("a.csv", "input,output\n1,\n"), ("a.json", '[["1", "2"], ["3", ""]]')])
def test_rows_without_a_line_of_their_own_have_none(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert [one["row"] for one in rejected(tmp_path, tmp_path / name)] == [None]
