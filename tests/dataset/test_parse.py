"""People's files become examples; faults become issues with their line and what would work."""

import contextlib
import gzip
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kastor.dataset.formats.encode import encode_example
from kastor.dataset.formats.issues import Issue, ParsedRow
from kastor.dataset.formats.parse import decode_example
from kastor.dataset.formats.read import read_examples, read_rows
from kastor.dataset.formats.row_formats import parse_formatted_row
from kastor.domain.content import (
    Content,
    Example,
    FunctionCall,
    FunctionResponse,
    Media,
    Part,
    Resolution,
    Role,
    SupervisedTurns,
    Text,
)
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
    with pytest.raises(
        InvalidArgument, match=r"has the columns q, a \(separated by commas\), but needs one of text_input, "
    ):
        read_examples(file)


def test_vertex_lines_are_read_with_trailing_commas(tmp_path: Path) -> None:
    (example,) = read_examples(written(tmp_path, "v.jsonl", VERTEX))
    assert example == Example(PAIRS[0].contents, (Text("Count."),))


@pytest.mark.parametrize(
    ("line", "rule", "said"),
    [
        ('{"text_input": "1"}', "shape", "the object holds 'text_input'"),
        ('{"text_input": 1, "output": "2"}', "type", "text_input: a number, expected text"),
        ('{"text_input": "1" "output": "2"}', "not_json", "at column 20"),
        ("[1, 2, 3]", "shape", "a list, not an object"),
        ('{"contents": []}', "shape", "must be a non-empty list of turns"),
        (
            '{"contents": [{"role": "user", "parts": [{"text": "x"}]}]}',
            "last_turn",
            "the last turn must be the model's",
        ),
        ('{"contents": [{"role": "model", "parts": [{"text": "x"}]}]}', "first_turn", "a user turn must come before"),
        ('{"contents": [{"role": "system", "parts": [{"text": "x"}]}]}', "role", "goes into systemInstruction"),
        (
            '{"contents": [{"parts": [{"fileData": {}}]}, {"role": "model", "parts": [{"text": "x"}]}]}',
            "type",
            "contents[0].parts[0].fileData.fileUri: null, expected text",
        ),
        (
            '{"contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "user", "parts": [{"text": "b"}]},'
            ' {"role": "model", "parts": [{"text": "x"}]}]}',
            "turn_order",
            "turns alternate",
        ),
        ('{"text_input": "\\ud800", "output": "x"}', "not_json", "at column"),
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
seconds = st.none() | st.integers(0, 10**9).map(lambda tenths: tenths / 10)
resolutions = st.none() | st.sampled_from(Resolution)
segments = {"start_s": seconds, "end_s": st.none(), "fps": st.none() | st.floats(0.01, 24), "resolution": resolutions}
objects = st.dictionaries(texts, texts | st.integers(-9, 9) | st.booleans(), max_size=2).map(
    lambda held: orjson.dumps(held).decode()
)
parts = st.lists(
    st.builds(Text, texts)
    | st.builds(Media, st.just("video/mp4"), texts.filter(bool), st.just(b""), **segments)
    | st.builds(Media, st.just("image/png"), st.just(""), st.binary(min_size=1, max_size=20), resolution=resolutions)
    | st.builds(FunctionCall, texts.filter(bool), objects)
    | st.builds(FunctionResponse, texts.filter(bool), objects),
    min_size=1,
    max_size=4,
).map(tuple)


@given(question=parts, answer=parts, system=st.none() | parts, resolution=resolutions)
def test_what_is_kept_is_read_back_as_it_was(
    question: tuple[Part, ...], answer: tuple[Part, ...], system: tuple[Part, ...] | None, resolution: Resolution | None
) -> None:
    turns = (Content(Role.USER, question), Content(Role.MODEL, answer))
    example = Example(turns, system, '[{"functionDeclarations":[{"name":"f"}]}]', resolution)
    line = encode_example(example)
    assert b"\n" not in line
    assert decode_example(line) == example


@given(st.binary(max_size=60))
def test_no_bytes_bring_the_reader_down(data: bytes) -> None:
    with contextlib.suppress(InvalidArgument):
        decode_example(data)


def row(**fields: object) -> str:
    answer = {"role": "model", "parts": {"text": "a cat"}}
    return orjson.dumps({"contents": [{"parts": [fields]}, answer]}).decode() + "\n"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (
            {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"}, "videoMetadata": {"startOffset": "5s"}},
            Media("video/mp4", "gs://b/v.mp4", start_s=5.0),
        ),
        (
            {
                "file_data": {"mime_type": "VIDEO/MP4", "file_uri": "v.mp4"},
                "video_metadata": {"start_offset": "1.5s", "end_offset": {"seconds": "25", "nanos": 0}, "fps": 2},
                "media_resolution": {"level": "MEDIA_RESOLUTION_LOW"},
            },
            Media("video/mp4", "v.mp4", start_s=1.5, end_s=25.0, fps=2.0, resolution=Resolution.LOW),
        ),
        ({"inlineData": {"mimeType": "image/png", "data": "aGk"}}, Media("image/png", data=b"hi")),
        ({"functionCall": {"name": "f", "args": {"b": 1, "a": [2]}}}, FunctionCall("f", '{"b":1,"a":[2]}')),
        ({"functionResponse": {"name": "f", "response": {"x": None}}}, FunctionResponse("f", '{"x":null}')),
    ],
)
def test_media_and_functions_are_read_in_both_spellings(
    tmp_path: Path, part: dict[str, object], expected: Part
) -> None:
    (example,) = read_examples(written(tmp_path, "d.jsonl", row(**part)))
    assert example.contents[0].parts == (expected,)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"text": "a", "fileData": {}}, "contents[0].parts[0]: holds 'text' and 'fileData'"),
        ({"thought": True, "text": "hm"}, "holds 'thought', which cannot be tuned on"),
        ({"inlineData": {"mimeType": "image/png", "data": "%%%"}}, "inlineData.data: is not base64"),
        ({"fileData": {"mimeType": "png", "fileUri": "x"}}, "mimeType: 'png', expected a type such as image/png"),
        (
            {"fileData": {"mimeType": "video/mp4", "fileUri": "x"}, "videoMetadata": {"endOffset": "0:05"}},
            "videoMetadata.endOffset: '0:05', expected seconds such as",
        ),
        (
            {
                "fileData": {"mimeType": "video/mp4", "fileUri": "x"},
                "videoMetadata": {"startOffset": "9s", "endOffset": "5s"},
            },
            "endOffset: 5s is not after startOffset, 9s",
        ),
        (
            {"fileData": {"mimeType": "video/mp4", "fileUri": "x"}, "videoMetadata": {"fps": 25}},
            "fps: 25 is out of range",
        ),
        ({"functionCall": {"name": "", "args": {}}}, "functionCall.name: is empty"),
        ({"text": "x", "mediaResolution": {"level": "LOW"}}, "apply to media, not to text"),
    ],
)
def test_a_part_that_cannot_be_read_is_named_with_its_place(tmp_path: Path, part: dict[str, object], said: str) -> None:
    (issue,) = read_rows(written(tmp_path, "d.jsonl", row(**part)))
    assert isinstance(issue, Issue)
    assert said in str(issue)


def test_the_resolution_of_a_line_and_its_tools_are_kept(tmp_path: Path) -> None:
    line = VERTEX.replace("{", '{"generation_config": {"media_resolution": "MEDIA_RESOLUTION_LOW"}, "tools": {}, ', 1)
    (example,) = read_examples(written(tmp_path, "d.jsonl", line))
    assert example.resolution is Resolution.LOW
    assert example.tools == ""


def test_what_plays_no_part_is_noted_and_the_row_kept(tmp_path: Path) -> None:
    line = VERTEX.replace("{", '{"labels": {}, "generationConfig": {"temperature": 1}, ', 1)
    (found,) = read_rows(written(tmp_path, "d.jsonl", line))
    assert not isinstance(found, Issue)
    assert [(note.line, note.rule) for note in found.notes] == [(1, "unknown_field"), (1, "no_effect")]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.ZstdCompressor().compress])
def test_packed_files_are_read(tmp_path: Path, pack: object) -> None:
    assert callable(pack)
    text = b"".join(encode_example(pair) + b"\n" for pair in PAIRS)
    (tmp_path / "d.jsonl.packed").write_bytes(pack(text))
    assert read_examples(tmp_path / "d.jsonl.packed") == PAIRS
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"text_input,output\n1,2\n"))
    assert read_examples(tmp_path / "t.csv.gz") == PAIRS[:1]


@pytest.mark.parametrize("cut", [5, 20, 40])
def test_a_packed_file_cut_short_is_named(tmp_path: Path, cut: int) -> None:
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(b'{"text_input": "1", "output": "2"}\n' * 9)[:cut])
    with pytest.raises(InvalidArgument, match=r"d\.jsonl\.gz cannot be decompressed"):
        list(read_rows(tmp_path / "d.jsonl.gz"))


def test_an_endless_line_is_one_issue_and_the_next_lines_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kastor.dataset.formats.read.MAX_LINE_BYTES", 100)
    good = '{"text_input": "1", "output": "2"}\n'
    found = list(read_rows(written(tmp_path, "d.jsonl", good + "x" * 1000 + "\n" + good)))
    assert [(item.line, isinstance(item, Issue)) for item in found] == [(1, False), (2, True), (3, False)]


def test_lines_may_be_pairs(tmp_path: Path) -> None:
    assert read_examples(written(tmp_path, "d.jsonl", '["1", "2"]\n["twenty two", "twenty three"]\n')) == PAIRS


def weighted(**weights: object) -> str:
    turns = [{"role": role, "parts": [{"text": "a"}]} for role in ("user", "model")]
    return orjson.dumps({"contents": [turns[0], turns[1] | weights]}).decode() + "\n"


@pytest.mark.parametrize("weight", [0, 1, 0.0])
def test_the_weight_of_a_turn_of_the_models_says_whether_it_is_learnt_and_is_kept(
    tmp_path: Path, weight: float
) -> None:
    (example,) = read_examples(written(tmp_path, "d.jsonl", weighted(weight=weight)))
    assert (
        example.supervised_turns(SupervisedTurns.ALL)
        == example.supervised_turns(SupervisedTurns.LAST)
        == ((1,) if weight else ())
    )
    assert decode_example(encode_example(example)) == example


@pytest.mark.parametrize("weight", [2, 0.5, "1", True])
def test_a_weight_that_is_neither_0_nor_1_is_refused(tmp_path: Path, weight: object) -> None:
    (issue,) = read_rows(written(tmp_path, "d.jsonl", weighted(weight=weight)))
    assert isinstance(issue, Issue)
    assert (issue.path, issue.rule) == ("contents[1].weight", "turn_weight")


@pytest.mark.parametrize("args", [[], "", 0, False])
def test_arguments_that_are_no_object_are_refused_even_if_they_are_empty(tmp_path: Path, args: object) -> None:
    (issue,) = read_rows(written(tmp_path, "d.jsonl", row(functionCall={"name": "f", "args": args})))
    assert isinstance(issue, Issue)
    assert (issue.path, issue.rule) == ("contents[0].parts[0].functionCall.args", "type")


def test_arguments_nested_too_deeply_are_refused(tmp_path: Path) -> None:
    nested: object = {}
    for _ in range(200):
        nested = {"a": nested}
    (issue,) = read_rows(written(tmp_path, "d.jsonl", row(functionResponse={"name": "f", "response": nested})))
    assert isinstance(issue, Issue)
    assert issue.rule == "nesting"


PART = "contents[0].parts[0]"
FILM = {"fileData": {"mimeType": "video/mp4", "fileUri": "a.mp4"}}


def film_row(part: dict[str, object], **others: object) -> object:
    contents = [{"role": "user", "parts": [part, {"text": "?"}]}, {"role": "model", "parts": [{"text": "!"}]}]
    return {"contents": contents, **others}


@pytest.mark.parametrize(
    ("row", "path", "said"),
    [
        (
            film_row({**FILM, "videoMetadata": {"start_ofset": "5s"}}),
            f"{PART}.videoMetadata",
            "startOffset?",
        ),
        (film_row({**FILM, "video_metadata": {"frameRate": 2}}), f"{PART}.videoMetadata", "frameRate: not used"),
        (
            film_row({"fileData": {**FILM["fileData"], "videoMetadata": {"fps": 2}}}),
            f"{PART}.fileData",
            "put it into the part, beside fileData",
        ),
        (film_row(FILM, videoMetadata={"fps": 2}), "", "put it into the part, beside fileData"),
        (film_row(FILM, mediaResolution="MEDIA_RESOLUTION_LOW"), "", "or for all media in generationConfig"),
        (film_row({**FILM, "mediaResolution": {"lvl": 1}}), f"{PART}.mediaResolution", "mean level?"),
        (
            film_row({"inlineData": {"mimeType": "image/png", "data": "AA==", "fps": 1}}),
            f"{PART}.inlineData",
            "belongs in videoMetadata",
        ),
        (
            film_row(FILM, generationConfig={"temperature": 1}),
            "generationConfig",
            "temperature: tuning uses mediaResolution only",
        ),
        (
            {
                "contents": [
                    {"role": "user", "parts": [{"text": "a"}], "name": "x"},
                    {"role": "model", "parts": [{"text": "b"}]},
                ]
            },
            "",
            "name: not used",
        ),
    ],
)
def test_a_field_that_plays_no_part_is_said_wherever_it_stands(row: object, path: str, said: str) -> None:
    found = parse_formatted_row(1, row)  # type: ignore[arg-type]
    assert isinstance(found, ParsedRow)
    (note,) = found.notes
    assert note.path == path and said in str(note)


def test_a_number_of_frames_in_quotes_is_one_as_in_googles_json_and_a_word_is_none() -> None:
    found = parse_formatted_row(1, film_row({**FILM, "videoMetadata": {"fps": "2"}}))  # type: ignore[arg-type]
    assert isinstance(found, ParsedRow) and found.example.media[0].fps == 2.0 and not found.notes
    for fps, said in (
        ("two", "is not a number"),
        ("25", "is out of range"),
        (True, "is not a number"),
        ("nan", "is not a number"),
    ):
        refused = parse_formatted_row(1, film_row({**FILM, "videoMetadata": {"fps": fps}}))  # type: ignore[arg-type]
        assert isinstance(refused, Issue) and said in refused.message


def test_a_megabyte_is_not_printed() -> None:
    long = "x" * 1_000_000
    rows = [
        film_row({**FILM, "videoMetadata": {"startOffset": long}}),
        film_row({**FILM, "videoMetadata": {"fps": long}}),
        film_row({**FILM, long: 1}),
        film_row({**FILM, "mediaResolution": {"level": long}}),
        film_row({"fileData": {"mimeType": long, "fileUri": "a"}}),
        film_row({**FILM, "videoMetadata": {long: 1}}),
        {"contents": [{"role": long, "parts": [{"text": "a"}]}]},
    ]
    for row in rows:
        found = parse_formatted_row(1, row)  # type: ignore[arg-type]
        for issue in [found] if isinstance(found, Issue) else found.notes:
            assert len(str(issue)) < 400
