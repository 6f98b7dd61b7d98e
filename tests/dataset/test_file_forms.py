"""Files are read to the end that their format has, or refused in one sentence that names what they are."""

import gzip
import io
import pickle
import random
import socket
import sqlite3
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zstandard

from kastor.dataset.formats import read
from kastor.dataset.formats.compression import CorruptStream, open_decompressed
from kastor.dataset.formats.issues import FileFacts, Issue, ParsedRow
from kastor.dataset.formats.read import read_examples, read_rows
from kastor.domain.content import Example
from kastor.domain.errors import InvalidArgument

ROW = b'{"text_input": "1", "output": "2"}\n'
PAIR = Example.pair("1", "2")
zstd = zstandard.ZstdCompressor(write_checksum=True).compress
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def refusal(path: Path) -> str:
    with pytest.raises(InvalidArgument) as caught:
        list(read_rows(path))
    assert "\n" not in caught.value.message
    return caught.value.message


def put(folder: Path, name: str, data: bytes | str) -> Path:
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return folder / name


# ---- compressed streams


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (zstd(ROW) + zstd(ROW), 2),
        (SKIPPABLE + zstd(ROW) + SKIPPABLE + zstd(ROW), 2),
        (zstd(ROW) + zstd(b""), 1),
        (gzip.compress(ROW) + gzip.compress(ROW * 2), 3),
        (gzip.compress(ROW) + bytes(512), 1),
    ],
)
def test_all_frames_and_members_of_a_stream_are_read(tmp_path: Path, data: bytes, number: int) -> None:
    assert read_examples(put(tmp_path, "d.bin", data)) == [PAIR] * number


@pytest.mark.parametrize("pack", [zstd, gzip.compress])
def test_a_stream_cut_anywhere_is_an_error(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    generator = random.Random(1)  # several blocks of what packs badly, in few rows
    rows = b"".join(
        b'{"text_input": "%s", "output": "2"}\n' % generator.randbytes(1000).hex().encode() for _ in range(400)
    )
    data = pack(rows)
    for stop in {*range(5, len(data), max(1, len(data) // 40)), len(data) - 1}:
        assert "cannot be decompressed: the file is truncated" in refusal(put(tmp_path, "d.jsonl", data[:stop]))
    second = pack(ROW)
    for extra in (2, len(second) // 2, len(second) - 1):
        assert "cannot be decompressed" in refusal(put(tmp_path, "d.jsonl", data + second[:extra]))


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_file_that_is_changed_while_it_is_read_is_an_error(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(pack(ROW * 3))
    rows = read_rows(file)
    assert isinstance(next(rows), ParsedRow)
    with file.open("ab") as other:
        other.write(pack(ROW))
    with pytest.raises(InvalidArgument, match=r"a\.jsonl changed while it was read"):
        list(rows)
    assert len(list(read_rows(file))) == 4


@pytest.mark.parametrize(("num_mib", "refused"), [(64, False), (1100, True)])
def test_a_zstandard_file_of_some_bytes_does_not_unpack_to_gigabytes(num_mib: int, refused: bool) -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    packed = b"".join(packer.compress(b"\n" * 1024**2) for _ in range(num_mib)) + packer.flush()

    def unpacked() -> int:
        with open_decompressed(io.BytesIO(packed), packed[:4]) as file:
            return sum(map(len, iter(lambda: file.read(1 << 20), b"")))

    if refused:
        with pytest.raises(CorruptStream, match="more than 1,032 times its size"):
            unpacked()
    else:
        assert unpacked() == num_mib * 1024**2


def test_a_zstandard_file_cut_between_two_blocks_is_an_error(tmp_path: Path) -> None:
    packer = zstandard.ZstdCompressor().compressobj()
    begun = packer.compress(ROW * 100) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    assert len(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(begun)).read()) == len(ROW) * 100  # all rows
    assert "the file is truncated" in refusal(put(tmp_path, "d.jsonl.zst", begun))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (zstd(ROW) + b"more", "other bytes follow the end of the Zstandard stream"),
        (gzip.compress(ROW) + b"more", "other bytes follow the end of the gzip stream"),
        (zstd(ROW * 9)[:-1] + b"x", "the Zstandard stream is damaged"),
        (gzip.compress(ROW * 9)[:-6] + b"xxxxxx", "the gzip stream is damaged"),
    ],
)
def test_a_stream_that_is_damaged_or_goes_on_is_an_error(tmp_path: Path, data: bytes, said: str) -> None:
    assert said in refusal(put(tmp_path, "d.jsonl", data))


def test_a_stream_that_unpacks_to_a_thousandfold_takes_little_at_once() -> None:
    bomb = zstd(bytes(100_000_000))
    with open_decompressed(io.BytesIO(bomb), bomb[:4]) as file:  # type: ignore[arg-type]
        assert sum(iter(lambda: len(file.read(1 << 20)), 0)) == 100_000_000


@pytest.mark.parametrize("data", [b"", zstd(b""), SKIPPABLE, gzip.compress(b"")])
def test_an_empty_stream_holds_no_examples(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidArgument, match="holds no examples"):
        read_examples(put(tmp_path, "d.jsonl", data))


def test_what_is_no_stream_is_no_error_of_a_stream() -> None:
    with pytest.raises(CorruptStream), open_decompressed(io.BytesIO(zstd(ROW)[:9]), zstd(ROW)[:4]) as file:
        file.read()


# ---- other formats


def zipped(*names: str) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return held.getvalue()


def tarred() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("d.jsonl"))
    return held.getvalue()


def array() -> bytes:
    held = io.BytesIO()
    np.save(held, np.zeros(3))
    return held.getvalue()


@pytest.mark.parametrize(
    ("data", "named", "remedy"),
    [
        (b"PAR1" + bytes(40), "a Parquet file", "read_parquet('d.jsonl').to_json('data.jsonl'"),
        (b"ARROW1\0\0" + bytes(40), "an Arrow file", "read_feather"),
        (zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook", "CSV UTF-8"),
        (zipped("a.jsonl"), "a ZIP archive", "name the file inside, a.jsonl"),
        (zipped("x.npy"), "a NumPy archive", "JSON lines"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(40), "an old Excel workbook", "CSV UTF-8"),
        (ROW.decode().encode("utf-16"), "UTF-16 text", "`iconv -f UTF-16 -t UTF-8 d.jsonl > utf8-d.jsonl`"),
        (ROW.decode().encode("utf-16-le"), "UTF-16 text", "iconv"),
        (ROW.decode().encode("utf-16-be"), "UTF-16 text", "iconv"),
        (ROW.decode().encode("utf-32"), "UTF-32 text", "iconv -f UTF-32"),
        (pickle.dumps([1]), "a Python pickle", "JSON lines"),
        (array(), "a NumPy array", "JSON lines"),
        (tarred(), "a tar archive", "tar -xf"),
        (gzip.compress(tarred()), "a tar archive", "tar -xf"),
        (b"BZh91AY", "a bzip2 file", "bunzip2"),
        (b"\xfd7zXZ\0", "an xz file", "unxz"),
        (b"%PDF-1.7", "a PDF", "fileUri"),
        (b"<!DOCTYPE html><html>", "a web page", "download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer", "git lfs pull"),
        (bytes(100), "a binary file", "JSON lines"),
    ],
)
def test_a_file_of_another_format_is_named_with_a_way_to_convert_it(
    tmp_path: Path, data: bytes, named: str, remedy: str
) -> None:
    said = refusal(put(tmp_path, "d.jsonl", data))
    assert f"is {named}" in said
    assert remedy in said


def test_a_database_is_named(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "d.db") as connection:
        connection.execute("create table t (a)")
    connection.close()
    assert "an SQLite database" in refusal(tmp_path / "d.db")


def test_folders_devices_and_sockets_are_named(tmp_path: Path) -> None:
    put(tmp_path, "a.jsonl", ROW)
    assert f"is a folder; name one of its files, for instance {tmp_path / 'a.jsonl'}" in refusal(tmp_path)
    put(tmp_path, "dataset_info.json", "{}")
    assert f"datasets.load_from_disk('{tmp_path}').to_json('data.jsonl')" in refusal(tmp_path)
    assert "/dev/zero is a device, not a file" in refusal(Path("/dev/zero"))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        assert "is a socket, not a file" in refusal(tmp_path / "s")


# ---- JSON documents


@pytest.mark.parametrize(
    "text",
    [
        '{\n  "training_examples": [\n    {"text_input": "1", "output": "2"}\n  ]\n}\n',
        '{"version": 1, "data": [{"text_input": "1", "output": "2"}], "names": ["a"]}',
        '{"tuning_task": {"training_data": {"examples": {"examples": [{"text_input": "1", "output": "2",},]}}}}',
        '{\n"text_input": "1",\n"output": "2"\n}',
        '{"contents": [\n{"role": "user", "parts": [{"text": "1"}]},\n{"role": "model", "parts": [{"text": "2"}]}]}',
        '\n\n[\n{"text_input": "1", "output": "2"}, // a comment, [ and all\n]\n',
        "[[\"1\", \"2\"]]",
        '{"examples":\n[["1", "2"]]}',
    ],
)  # fmt: skip
def test_a_json_document_is_read_whatever_its_rows_are_wrapped_in(tmp_path: Path, text: str) -> None:
    assert read_examples(put(tmp_path, "d.json", text)) == [PAIR]


def test_objects_that_follow_each_other_over_many_lines_are_rows_with_the_line_they_begin_on(tmp_path: Path) -> None:
    pretty = '{\n  "text_input": "1",\n  "output": "2"\n}\n'
    rows = list(read_rows(put(tmp_path, "d.json", pretty + "\n" + pretty + '{\n "text_input": 1,\n "output": "2" }')))
    assert [(row.line, isinstance(row, ParsedRow)) for row in rows] == [(1, True), (6, True), (10, False)]


def test_elements_of_a_list_are_counted_as_elements_and_a_faulty_one_leaves_the_others(tmp_path: Path) -> None:
    text = '[\n["1", "2"],\n{"text_input": "1"\n "output": "2"},\n["1", "2"], 7]'
    facts = FileFacts()
    rows = list(read_rows(put(tmp_path, "d.json", text), facts=facts))
    assert facts.unit == "element"
    assert [isinstance(row, ParsedRow) for row in rows] == [True, False, True, False]
    assert str(rows[1]).startswith("element 2: ")
    assert "line 4" in str(rows[1])
    assert str(rows[3]).startswith("element 4: a number, not an object")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"train": [["1", "2"]], "test": [["1", "2"]]}', "several lists of rows: train, test"),
        ('[["1", "2"],\n["1", "2"]', "The list that begins on line 1 is never closed"),
        ('[["1", "2"]]\n["1", "2"]', "The list ends on line 1, but the file continues"),
        ('[\n["1", "2"]\n]\n["1", "2"]', "The list ends on line 3, but the file continues"),
    ],
)
def test_a_document_whose_rows_cannot_be_told_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(put(tmp_path, "d.json", text))


@pytest.mark.parametrize("num_rows", [1, 2])
def test_requests_of_batch_predictions_are_named(tmp_path: Path, num_rows: int) -> None:
    request = '{"request": {"contents": [{"role": "user", "parts": [{"text": "a"}]}], "safetySettings": [{"x": 1}]}}\n'
    rows = list(read_rows(put(tmp_path, "d.jsonl", request * num_rows)))
    assert len(rows) == num_rows
    for row in rows:
        assert "request: a request, as in files of batch predictions, not an example (write its contents" in str(row)


@pytest.mark.parametrize("line", [b'{"text_input": "1",', b'{"text_input": "1", "out', b"{"])
def test_a_first_line_that_is_cut_spoils_no_other(tmp_path: Path, line: bytes) -> None:
    first, *others = read_rows(put(tmp_path, "d.jsonl", line + b"\n" + ROW * 3))
    assert isinstance(first, Issue)
    assert [isinstance(row, ParsedRow) for row in others] == [True] * 3


def test_a_fault_on_a_line_names_the_columns_of_that_line_alone(tmp_path: Path) -> None:
    _, issue = read_rows(put(tmp_path, "d.jsonl", ROW + b'{"text_input": "1" "output": "2"}'))
    assert "line 2: " in str(issue)
    assert "at column 20" in str(issue)
    assert "line 1" not in str(issue)


# ---- CSV


@pytest.mark.parametrize(
    ("text", "container"),
    [
        ("text_input;output\n1;2\n", "CSV separated by semicolons"),
        ("text_input\toutput\n1\t2\n", "CSV separated by tabs"),
        ("text_input|output\n1|2\n", "CSV separated by vertical bars"),
        ("sep=;\r\ntext_input;output\r\n1;2\r\n", "CSV separated by semicolons"),
        (" Text Input , OUTPUT\n1,2\n", ""),
        ("\ufeffTextInput,output\n1,2\n", ""),
        ("\n", None),
    ],
)
def test_the_separator_and_the_columns_are_found(tmp_path: Path, text: str, container: str | None) -> None:
    facts = FileFacts()
    file = put(tmp_path, "d.csv", text)
    if container is None:
        assert "but needs one of text_input" in refusal(file)
        return
    (row,) = read_rows(file, facts=facts)
    assert isinstance(row, ParsedRow)
    assert (row.example, facts.container) == (PAIR, container)


def test_a_column_that_plays_no_part_is_noted(tmp_path: Path) -> None:
    noted, plain = read_rows(put(tmp_path, "d.csv", "id,text_input,output\n7,1,2\n,1,2\n"))
    assert isinstance(noted, ParsedRow)
    assert [note.message for note in noted.notes] == ["id: not used in tuning"]
    assert isinstance(plain, ParsedRow)
    assert plain.notes == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text_input,output,output\n1,2,3\n", "two columns named 'output'"),
        ("text_input,Output,output\n1,2,3\n", "the columns 'Output' and 'output'"),
        ("a,b\n1,2\n", "--input-key and --output-key"),
        ("a:b\n1:2\n", "not separated by , ; | or tabs"),
    ],
)
def test_a_header_that_cannot_be_understood_is_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    assert said in refusal(put(tmp_path, "d.csv", text))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('text_input,output\n"open,2\n3,4\n', 2, "never closed"),
        ('text_input,output\n1,2\n"a\nb",2\n3,"open\n\n5,6\n', 5, "never closed"),
        ('text_input,output\n1,"a ""b"" c\n3,4\n', 2, "never closed"),
        ('text_input,output\n"a"b,2\n', 2, "ends in the middle of line 2"),
    ],
)
def test_a_quotation_mark_is_blamed_on_the_line_where_it_stands(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    *_, issue = read_rows(put(tmp_path, "d.csv", text))
    assert isinstance(issue, Issue)
    assert (issue.line, issue.rule) == (line, "not_csv")
    assert said in issue.message


def test_rows_of_a_csv_have_the_line_on_which_they_begin(tmp_path: Path) -> None:
    rows = read_rows(put(tmp_path, "d.csv", 'text_input,output\n"a\nb",2\n\n3,4\n'))
    assert [row.line for row in rows] == [2, 5]


def test_a_field_of_any_length_is_read(tmp_path: Path) -> None:
    long = "x" * 200_000
    assert read_examples(put(tmp_path, "d.csv", f"text_input,output\n1,{long}\n")) == [Example.pair("1", long)]


def test_what_is_too_large_to_be_read_at_once_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_WHOLE_BYTES", 20)
    assert "write it as JSON lines" in refusal(put(tmp_path, "d.json", b"[\n" + ROW.strip() + b",\n" + ROW + b"]"))


@pytest.mark.parametrize("beginning", [b"", ROW])
@pytest.mark.parametrize("blank", [b"\n", b" " * 1000 + b"\n"])
def test_a_small_packed_file_of_endless_blank_lines_is_refused_soon(
    tmp_path: Path, beginning: bytes, blank: bytes
) -> None:
    bomb = gzip.compress(beginning + blank * (3 << 20 if blank == b"\n" else 70_000) + ROW)
    assert "consecutive blank lines; remove them" in refusal(put(tmp_path, "d.jsonl.gz", bomb))


def test_blank_lines_between_rows_are_no_fault(tmp_path: Path) -> None:
    assert len(list(read_rows(put(tmp_path, "d.jsonl", b"\n" * 1000 + (ROW + b"\n" * 10) * 3)))) == 3


@pytest.mark.skipif(not Path("/proc/kmsg").exists(), reason="there is no such file here")
def test_a_file_that_is_a_window_into_the_system_is_refused_by_name() -> None:
    with pytest.raises(InvalidArgument, match="/proc/kmsg is a system interface, which may never end, not a"):
        next(iter(read_rows(Path("/proc/kmsg"))))
