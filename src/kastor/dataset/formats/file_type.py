"""Recognises unsupported file formats by their first bytes, and says how to convert them."""

import stat
import zipfile
from pathlib import Path

from kastor.domain.errors import InvalidArgument

HEAD_BYTES = 4096
TAR_MAGIC_AT = 257
PROC = Path("/proc")
PANDAS = "python -c \"import pandas; pandas.{reader}({name!r}).to_json('data.jsonl', orient='records', lines=True)\""
TO_LINES = "convert it, for instance with {command}"
AS_CSV = "open it and save the sheet as CSV UTF-8"

_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"PAR1", "a Parquet file", TO_LINES.format(command=PANDAS.replace("{reader}", "read_parquet"))),
    (b"ARROW1", "an Arrow file", TO_LINES.format(command=PANDAS.replace("{reader}", "read_feather"))),
    (b"FEA1", "a Feather file", TO_LINES.format(command=PANDAS.replace("{reader}", "read_feather"))),
    (b"\xff\xff\xff\xff", "an Arrow stream", "load it with the `datasets` library and call .to_json('data.jsonl')"),
    (b"ORC", "an ORC file", TO_LINES.format(command=PANDAS.replace("{reader}", "read_orc"))),
    (b"Obj\x01", "an Avro file", "convert it to JSON lines, for instance with `avro-tools tojson`"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write its rows as JSON lines"),
    (b"\x93NUMPY", "a NumPy array", "write its rows as JSON lines"),
    (b"SQLite format 3\0", "an SQLite database", "export the table, for instance with `sqlite3 -json`"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel workbook (.xls)", AS_CSV),
    (b"\xef\xbb\xbf\x1f\x8b", "a damaged gzip file", "compress it again, as bytes and not as text"),
    (b"BZh", "a bzip2 file", "unpack it with `bunzip2`; .gz and .zst need no unpacking"),
    (b"\xfd7zXZ\0", "an xz file", "unpack it with `unxz`; .gz and .zst need no unpacking"),
    (b"\x04\x22\x4d\x18", "an LZ4 file", "unpack it with `unlz4`; .gz and .zst need no unpacking"),
    (b"\x1f\x9d", "a file of `compress` (.Z)", "unpack it with `uncompress`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it and name the file inside"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and name the file inside"),
    (b"%PDF-", "a PDF", "a dataset is JSON lines or CSV; its rows may name PDFs by fileUri"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image", "a dataset is JSON lines or CSV; its rows may name images by fileUri"),
    (b"\xff\xd8\xff", "a JPEG image", "a dataset is JSON lines or CSV; its rows may name images by fileUri"),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer, not the data",
        "fetch the data with `git lfs pull`",
    ),
)
_UTF = (
    (b"\xff\xfe\0\0", "UTF-32LE"),
    (b"\0\0\xfe\xff", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16LE"),
    (b"\xfe\xff", "UTF-16BE"),
)


def check_regular_file(path: Path) -> None:
    """Check that the path is a regular file or a pipe, which can be read once.

    Raises:
        InvalidArgument: it is a folder, a device or a socket, or does not exist; says what would work.

    """
    try:
        status = path.stat()
    except OSError as error:
        raise InvalidArgument(f"Cannot read {path}: {error.strerror or error}.") from error
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise InvalidArgument(_folder(path))
    kinds = {stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket"}
    kind = kinds.get(stat.S_IFMT(mode))
    if kind is None and PROC.is_mount() and status.st_dev == PROC.stat().st_dev:
        kind = "a system interface, which may never end"  # such as /proc/kmsg, a regular file to stat
    if kind is not None:
        raise InvalidArgument(f"{path} is {kind}, not a file; write the rows into a file first.")


def check_text_file(path: Path, head: bytes) -> None:
    """Check that the file may be text; `head` is its decompressed beginning.

    Raises:
        InvalidArgument: the file has another format; names it, and how to convert it.

    """
    found = _format(path, head)
    if found is not None:
        name, remedy = found
        raise InvalidArgument(f"{path} is {name}, which is not supported; {remedy}.")


def _format(path: Path, head: bytes) -> tuple[str, str] | None:
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(path)
    encoding = _encoding(head)
    if encoding is not None:
        command = f"`iconv -f {encoding[:6]} -t UTF-8 {path.name} > utf8-{path.name}`"
        return f"{encoding[:6]} text", f"convert it to UTF-8, for instance with {command}"
    for magic, name, remedy in _MAGIC:
        if head.startswith(magic):
            return name, remedy.replace("{name!r}", repr(path.name))
    if head[TAR_MAGIC_AT : TAR_MAGIC_AT + 5] == b"ustar":
        return "a tar archive", "unpack it with `tar -xf` and name the file inside"
    if len(head) > 1 and head[0] == 0x80 and head[1] in range(2, 6):
        return "a Python pickle", "load it in Python and write its rows as JSON lines"
    begin = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:15].lower()
    if begin.startswith((b"<!doctype html", b"<html")):
        return "a web page (HTML)", "download the file itself, not the page that shows it"
    if begin.startswith(b"<?xml"):
        return "an XML file", "write its rows as JSON lines"
    if b"\0" in head:
        return "a binary file of unknown format", "a dataset is JSON lines, a JSON array or CSV, in UTF-8"
    return None


def _encoding(head: bytes) -> str | None:
    """UTF-16 or UTF-32, detected by the byte order mark or by zero bytes beside leading ASCII characters."""
    for mark, encoding in _UTF:
        if head.startswith(mark) and not head.startswith(b"\xff\xff"):
            return encoding
    first = head[:8]
    if len(first) == 8 and first[1::2] == bytes(4) and all(first[::2]):
        return "UTF-16LE"
    if len(first) == 8 and first[::2] == bytes(4) and all(first[1::2]):
        return "UTF-16BE"
    return None


def _zip(path: Path) -> tuple[str, str]:
    """The name and remedy for a ZIP archive or a format based on one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return "a damaged ZIP archive", "copy or download it again"
    if any(name.startswith("xl/") for name in names):
        return "an Excel workbook", AS_CSV
    if "mimetype" in names and "content.xml" in names:
        return "an OpenDocument file", AS_CSV
    if any(name.startswith("word/") for name in names):
        return "a Word document", "save its rows as CSV or JSON lines"
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)", "write its rows as JSON lines"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file", "load it in Python and write its rows as JSON lines"
    inside = f", {names[0]}" if len(names) == 1 else ""
    return "a ZIP archive", f"unpack it with `unzip` and name the file inside{inside}"


def _folder(path: Path) -> str:
    names = sorted(entry.name for entry in path.iterdir())
    if "dataset_info.json" in names or "dataset_dict.json" in names or any(n.endswith(".arrow") for n in names):
        split = "['train']" if "dataset_dict.json" in names else ""
        command = f"datasets.load_from_disk({str(path)!r}){split}.to_json('data.jsonl')"
        return f"{path} is a folder of the `datasets` library; write its rows into a file with {command}."
    if any(name.endswith(".parquet") for name in names):
        command = f"pandas.read_parquet({str(path)!r}).to_json('data.jsonl', orient='records', lines=True)"
        return f"{path} is a folder of Parquet files; write their rows into a file with {command}."
    rows = [name for name in names if name.endswith((".jsonl", ".json", ".csv", ".tsv", ".gz", ".zst"))]
    hint = f"name one of its files, for instance {path / rows[0]}" if rows else "a dataset is one file"
    return f"{path} is a folder; {hint}."
