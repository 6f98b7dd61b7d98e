"""People's files become examples; faults become issues with their line and what would work."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.parse import Issue, decode_example, encode_example, read_examples, read_rows
from kastor.domain.content import Content, Example, Role, Text
from kastor.domain.errors import InvalidArgument

PAIRS = [Example.pair("1", "2"), Example.pair("twenty two", "twenty three")]
VERTEX = (
    '{"systemInstruction": {"role": "system", "parts": [{"text": "Count."}]}, "contents": '
    '[{"role": "user", "parts": [{"text": "1"},]}, {"role": "model", "parts": [{"text": "2"}]}],}\n'
)


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_text(text, "utf-8")
    return file


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.jsonl", '{"text_input": "1", "output": "2"}\n\n{"textInput": "twenty two", "output": "twenty three"}'),
        (
            "bom.jsonl",
            '\ufeff{"text_input": "1", "output": "2"}\n{"prompt": "twenty two", "completion": "twenty three"}',
        ),
        ("commas.jsonl", '{"text_input": "1", "output": "2",}\n{"input": "twenty two", "output": "twenty three"}\n'),
        ("array.json", '[{"text_input": "1", "output": "2"},\n ["twenty two", "twenty three"],\n]'),
        ("table.csv", 'id,text_input,output\n7,1,2\n8,"twenty two",twenty three\n'),
        ("table.tsv", "output\ttext_input\n2\t1\ntwenty three\ttwenty two\n"),
    ],
)
def test_every_form_people_hold_pairs_in_is_read(tmp_path: Path, name: str, text: str) -> None:
    assert read_examples(written(tmp_path, name, text)) == PAIRS


@pytest.mark.parametrize(("row", "said"), [("hi,Hello, friend", "3 fields"), ("hi", "1 fields")])
def test_a_csv_row_with_more_or_fewer_fields_than_the_header_is_an_issue_never_cut(
    tmp_path: Path, row: str, said: str
) -> None:
    file = written(tmp_path, "t.csv", f"text_input,output\n1,2\n{row}\n")
    good, bad = read_rows(file)
    assert isinstance(bad, Issue)
    assert (bad.line, bad.rule) == (3, "csv_fields")
    assert f"{said}, the header has 2" in bad.message


def test_a_header_that_is_not_csv_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="line 1: not CSV"):
        read_examples(written(tmp_path, "t.csv", '"text_input"x,output\n1,2\n'))


def test_columns_may_be_named(tmp_path: Path) -> None:
    file = written(tmp_path, "t.csv", "q,a\n1,2\n")
    assert read_examples(file, input_key="q", output_key="a") == PAIRS[:1]
    with pytest.raises(InvalidArgument, match=r"has the columns q, a; needed are text_input or"):
        read_examples(file)


def test_vertex_lines_are_read_with_trailing_commas(tmp_path: Path) -> None:
    (example,) = read_examples(written(tmp_path, "v.jsonl", VERTEX))
    assert example == Example(PAIRS[0].contents, system="Count.")


@pytest.mark.parametrize(
    ("line", "rule", "said"),
    [
        ('{"text_input": "1"}', "shape", "the object holds 'text_input'"),
        ('{"text_input": 1, "output": "2"}', "type", "text_input: a number, expected text"),
        ('{"text_input": "1" "output": "2"}', "not_json", "line 1, column 20"),
        ("[1, 2, 3]", "shape", "a list, not an object"),
        ('{"contents": []}', "shape", "must be a list of turns that is not empty"),
        (
            '{"contents": [{"role": "user", "parts": [{"text": "x"}]}]}',
            "last_turn",
            "the last turn must be the model's",
        ),
        ('{"contents": [{"role": "model", "parts": [{"text": "x"}]}]}', "first_turn", "a user turn must stand before"),
        ('{"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}', "role", 'Gemini calls it "model"'),
        (
            '{"contents": [{"parts": [{"fileData": {}}]}, {"role": "model", "parts": [{"text": "x"}]}]}',
            "part_kind",
            "contents[0].parts[0]: holds 'fileData'; only text",
        ),
        (
            '{"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "user", "parts": [{"text": "b"}]},'
            ' {"role": "model", "parts": [{"text": "x"}]}]}',
            "turn_order",
            "turns alternate",
        ),
        ('{"text_input": "\\ud800", "output": "x"}', "not_json", "at line 1, column"),
    ],
)
def test_a_fault_becomes_an_issue_with_its_place(tmp_path: Path, line: str, rule: str, said: str) -> None:
    good = '{"text_input": "1", "output": "2"}\n'
    items = list(read_rows(written(tmp_path, "d.jsonl", good + line + "\n" + good)))
    issues = [item for item in items if isinstance(item, Issue)]
    assert len(items) == 3
    assert [(issue.line, issue.rule) for issue in issues] == [(2, rule)]
    assert said in str(issues[0])


def test_all_faults_are_counted_and_the_first_are_shown(tmp_path: Path) -> None:
    file = written(tmp_path, "d.jsonl", '{"text_input": "1", "output": "2"}\n' + "{}\n" * 8)
    with pytest.raises(InvalidArgument, match=r"8 of 9 rows are faulty(.|\n)*line 2(.|\n)*line 6(.|\n)*and 3 more"):
        read_examples(file)


@pytest.mark.parametrize("text", ["", "\n\n", "[]"])
def test_an_empty_file_is_refused_with_an_example_of_a_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidArgument, match="holds no examples"):
        read_examples(written(tmp_path, "d.jsonl", text))


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        read_examples(tmp_path / "none.jsonl")
    (tmp_path / "latin.csv").write_bytes(b"text_input,output\n\xe9,1\n")
    with pytest.raises(InvalidArgument, match="not UTF-8"):
        read_examples(tmp_path / "latin.csv")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text_input": "\xe9", "output": "1"}\n')
    with pytest.raises(InvalidArgument, match="Not UTF-8: byte 0xe9"):
        read_examples(tmp_path / "latin.jsonl")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(question=texts, answer=texts, system=st.none() | texts)
def test_what_is_kept_is_read_back_as_it_was(question: str, answer: str, system: str | None) -> None:
    turns = (Content(Role.USER, (Text(question), Text("x"))), Content(Role.MODEL, (Text(answer),)))
    example = Example(turns, system)
    line = encode_example(example)
    assert b"\n" not in line
    assert decode_example(line) == example


@given(st.binary(max_size=60))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        decode_example(data)
