"""Messages count things as people do."""

from pathlib import Path

import pytest

from kastor.dataset.formats.issues import num_faulty_rows
from kastor.dataset.formats.read import read_examples
from kastor.dataset.validation.rules import token_violations
from kastor.domain.errors import InvalidArgument


def test_one_row_is_no_rows(tmp_path: Path) -> None:
    assert num_faulty_rows(1, 1) == "1 of 1 row is faulty"
    assert num_faulty_rows(2, 1200) == "2 of 1,200 rows are faulty"
    (tmp_path / "d.jsonl").write_text("{}\n")
    with pytest.raises(InvalidArgument, match=r"1 of 1 row is faulty\."):
        read_examples(tmp_path / "d.jsonl")


def test_one_token_is_no_tokens() -> None:
    (fault,) = token_violations(1, 0, "models/b")
    assert fault.message.startswith("1 token, ")
