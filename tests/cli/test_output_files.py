"""No command overwrites what it reads, and one that cannot write says so before it works."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from kastor.cli.app import app
from kastor.cli.console.output_files import replacing_file
from support.command_result import Kastor
from support.prompt_media import make_picture
from support.tiny_catalog import tiny_catalog
from support.tiny_models import tiny_tokenizer

ROWS = '{"text_input": "1", "output": "2"}\n{"q": 1}\n'
READ = {
    *("tune data", "check data", "check validation", "check media_root", "prepare data", "prepare patterns"),
    *("serve grpc_cert", "serve grpc_key"),
}
WRITTEN = {"check html", "check rejects", "prepare out_dir", "export out", "demo image out", "demo video out"}
KEPT_BY_KASTOR = {"serve data_dir", "export data_dir", "keys create data_dir", "keys list data_dir"} | {
    "keys revoke data_dir"
}


def run_kastor(*arguments: str, **streams: Any) -> "subprocess.CompletedProcess[str]":
    """The command as a process of its own, whose standard streams are files or pipes."""
    command = [sys.executable, "-m", "kastor.cli", *arguments]
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE} | streams
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60, check=False, **streams)


def path_parameters() -> Iterator[str]:
    """Every parameter of every command that names a file or folder."""

    def walk(command: Any, path: tuple[str, ...]) -> Iterator[str]:
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, (*path, name))
        for parameter in command.params:
            if parameter.type_descriptor.annotation in (Path, list[Path]):
                yield " ".join((*path, parameter.name))

    yield from walk(get_command(app), ())


@pytest.fixture
def data(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A dataset, in the working directory, with a base that can judge it."""
    folder = home / "tiny"
    folder.mkdir()
    tiny_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text("{}")
    catalog = tiny_catalog(home / "catalog.toml", {"tiny": folder}, input_token_limit=200, output_token_limit=56)
    monkeypatch.setenv("KASTOR_CATALOG_FILE", str(catalog))
    work = home / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    path = work / "data.jsonl"
    path.write_text(ROWS)
    return path


def test_every_option_that_names_a_file_is_known_to_read_or_to_write_it() -> None:
    assert set(path_parameters()) == READ | WRITTEN | KEPT_BY_KASTOR


def symlink(to: Path) -> Path:
    to.with_name("link").symlink_to(to)
    return to.with_name("link")


def hard_link(to: Path) -> Path:
    to.with_name("link").hardlink_to(to)
    return to.with_name("link")


def folder_symlink(to: Path) -> Path:
    to.parent.with_name("linked").symlink_to(to.parent)
    return to.parent.with_name("linked") / to.name


@pytest.mark.parametrize("link", [Path, symlink, hard_link, folder_symlink, lambda to: Path("..", "work", to.name)])
@pytest.mark.parametrize("option", ["--rejects", "--html"])
def test_check_overwrites_neither_of_its_datasets(
    data: Path, kastor: Kastor, option: str, link: Callable[[Path], Path]
) -> None:
    held_out = data.with_name("held-out.jsonl")
    held_out.write_text(ROWS + "\n")
    for read in (data, held_out):
        named = link(read)
        ran = kastor("check", str(data), "--validation", str(held_out), "--base", "tiny", option, str(named))
        assert (ran.code, ran.out) == (2, ""), ran.err
        assert f"{option}" in ran.err and "would overwrite" in ran.err and read.name in ran.err
        assert (data.read_text(), held_out.read_text()) == (ROWS, ROWS + "\n")
        if named.name == "link":
            named.unlink()
        Path(data.parent.with_name("linked")).unlink(missing_ok=True)


@pytest.mark.parametrize("option", ["--rejects", "--html"])
@pytest.mark.parametrize("named", ["data.jsonl", "hard", "/dev/stdin"])
def test_a_dataset_that_is_read_as_stdin_is_not_overwritten_either(data: Path, option: str, named: str) -> None:
    data.with_name("hard").hardlink_to(data)
    with data.open("rb") as stdin:
        ran = run_kastor("check", "-", "--base", "tiny", option, named, stdin=stdin)
    assert ran.returncode == 2 and "would overwrite DATA, which is read as stdin" in ran.stderr
    assert data.read_text() == ROWS


def test_an_output_may_be_stdout_where_that_is_a_pipe(data: Path) -> None:
    ran = run_kastor("check", "data.jsonl", "--base", "tiny", "--rejects", "/dev/stdout")
    assert ran.returncode == 1 and '"line": 2' in ran.stdout, ran.stderr


def test_an_output_is_not_the_file_that_stdout_goes_to(data: Path) -> None:
    for name in ("printed", "/dev/stdout"):
        with data.with_name("printed").open("w") as stdout:
            ran = run_kastor("check", "data.jsonl", "--base", "tiny", "--rejects", name, stdout=stdout)
        assert ran.returncode == 2 and "this command's own output goes" in ran.stderr


@pytest.mark.parametrize("option", ["--rejects", "--html"])
def test_an_output_that_finds_no_room_is_named(data: Path, kastor: Kastor, option: str) -> None:
    ran = kastor("check", str(data), "--base", "tiny", option, "/dev/full")
    assert ran.code == 1 and ran.err.endswith("Error: No space left for /dev/full; free some and try again.\n"), ran.err


def test_a_pipe_is_no_output_folder(data: Path) -> None:
    ran = run_kastor("prepare", "data.jsonl", "--out", "/dev/stdout")
    assert ran.returncode == 2 and "is not a folder" in ran.stderr


def test_check_overwrites_no_medium_that_its_dataset_shows(data: Path, kastor: Kastor) -> None:
    picture = data.with_name("a.png")
    make_picture(picture, 1)
    before = picture.read_bytes()
    part = '{"fileData": {"fileUri": "a.png", "mimeType": "image/png"}}'
    data.write_text(
        f'{{"contents": [{{"role": "user", "parts": [{part}]}}, {{"role": "model", "parts": [{{"text": "b"}}]}}]}}'
    )
    ran = kastor("check", str(data), "--base", "tiny", "--html", str(picture))
    assert ran.code == 2 and "would overwrite a.png, a medium of the dataset" in ran.err
    assert picture.read_bytes() == before


def test_two_outputs_are_not_one_file(data: Path, kastor: Kastor) -> None:
    ran = kastor("check", str(data), "--base", "tiny", "--html", "x", "--rejects", "x")
    assert ran.code == 2 and "would overwrite --html, x" in ran.err


def test_the_catalog_the_settings_and_the_database_are_not_overwritten(
    data: Path, kastor: Kastor, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, settings = home / "data" / "kastor.db", home / "settings.toml"
    database.parent.mkdir()
    database.write_text("a database")
    settings.write_text("port = 0\n")
    monkeypatch.setenv("KASTOR_CONFIG", str(settings))
    for path in (home / "catalog.toml", settings, database):
        before = path.read_text()
        ran = kastor("check", str(data), "--base", "tiny", "--html", str(path))
        assert ran.code == 2 and path.name in ran.err
        assert path.read_text() == before


def test_a_dataset_with_the_name_of_a_half_written_report_survives(data: Path, kastor: Kastor) -> None:
    hidden = data.rename(data.with_name(".r.jsonl.partial"))
    ran = kastor("check", str(hidden), "--base", "tiny", "--rejects", "r.jsonl")
    assert ran.code == 1 and hidden.read_text() == ROWS
    assert '"line": 2' in Path("r.jsonl").read_text()


@pytest.mark.parametrize("where", ["data.jsonl/report.html", ".", "n" * 300, "data.jsonl/below/report.html"])
def test_check_says_that_it_cannot_write_before_it_reads(data: Path, kastor: Kastor, where: str) -> None:
    ran = kastor("check", str(data), "--base", "tiny", "--html", where)
    assert (ran.code, ran.out) == (2, "") and "--html" in ran.err
    assert "line 2" not in ran.err, "the dataset was read"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_to_is_said(data: Path, kastor: Kastor) -> None:
    closed = data.with_name("closed")
    closed.mkdir(mode=0o500)
    ran = kastor("check", str(data), "--base", "tiny", "--html", "closed/report.html")
    assert ran.code == 2 and "permission to write to" in ran.err


def test_an_output_in_a_folder_that_is_not_there_makes_it(data: Path, kastor: Kastor) -> None:
    kastor("check", str(data), "--base", "tiny", "--html", "new/report.html", "--rejects", "new/below/r.jsonl")
    assert Path("new/report.html").read_text().startswith("<!doctype html>")
    assert len(Path("new/below/r.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("demo", ["image", "video"])
def test_a_demo_says_that_it_cannot_write_its_page_before_it_trains(data: Path, kastor: Kastor, demo: str) -> None:
    ran = kastor("demo", demo, "--out", "data.jsonl/page.html")
    assert ran.code == 2 and "--out" in ran.err and data.read_text() == ROWS


def test_prepare_keeps_out_of_the_datasets_own_folder_however_it_is_called(data: Path, kastor: Kastor) -> None:
    elsewhere = data.parent.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "linked.jsonl").symlink_to(data)
    data.parent.with_name("alias").symlink_to(data.parent)
    for read, folder in ((data, "."), (data, "../alias"), (elsewhere / "linked.jsonl", ".")):
        ran = kastor("prepare", str(read), "--out", folder)
        assert ran.code == 2 and "is the folder of the dataset" in ran.err, (read, folder)
    assert [path.name for path in data.parent.iterdir()] == ["data.jsonl"]


@pytest.mark.parametrize("name", ["dataset.jsonl", "changes.html", "prepare.json", "state.jsonl.keep"])
def test_prepare_overwrites_nothing_that_it_did_not_make(data: Path, kastor: Kastor, name: str) -> None:
    folder = data.with_name("mine")
    folder.mkdir()
    (folder / name).write_text("mine")
    ran = kastor("prepare", str(data), "--out", "mine")
    assert (folder / name).read_text() == "mine"
    if name == "state.jsonl.keep":  # in nobody's way
        assert ran.code == 0, ran.err
        assert kastor("prepare", str(data), "--out", "mine").code == 0, "a second run goes on in its own folder"
    else:
        assert ran.code == 2 and "was not created by kastor prepare" in ran.err


def test_prepare_overwrites_its_dataset_not_even_through_a_hard_link(data: Path, kastor: Kastor) -> None:
    assert kastor("prepare", str(data), "--out", "done").code == 0
    again = data.with_name("again.jsonl")
    again.hardlink_to(Path("done", "dataset.jsonl"))
    ran = kastor("prepare", str(again), "--out", "done")
    assert ran.code == 2 and "would overwrite DATA" in ran.err


def test_prepare_and_export_say_that_they_cannot_write_before_they_work(data: Path, kastor: Kastor) -> None:
    for arguments in (("prepare", str(data)), ("export", "tunedModels/none")):
        ran = kastor(*arguments, "--out", "data.jsonl/below")
        assert (ran.code, ran.out) == (2, "") and "is not a folder" in ran.err, ran.err


def test_a_file_keeps_its_permissions_and_its_links_when_it_is_replaced(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    with replacing_file(link) as file:
        file.write("new")
    assert link.is_symlink() and target.read_text() == "new" and target.stat().st_mode & 0o777 == 0o640


def test_what_is_no_regular_file_is_written_to_and_stays(data: Path, kastor: Kastor) -> None:
    pipe = data.with_name("pipe")
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    ran = kastor("check", str(data), "--base", "tiny", "--rejects", str(pipe))
    assert ran.code == 1 and pipe.is_fifo()
    assert b'"line": 2' in os.read(reading, 65536)
    os.close(reading)


def test_a_file_that_was_not_written_to_its_end_leaves_the_old_one(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing_file(target) as file:
        file.write("half")
        raise ZeroDivisionError
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_links_in_a_circle_are_named_and_never_a_traceback(data: Path, kastor: Kastor) -> None:
    circle = data.with_name("circle.jsonl")
    circle.symlink_to(circle.name)
    for arguments in (
        ("prepare", "circle.jsonl", "--out", "done"),
        ("prepare", "data.jsonl", "--out", "circle.jsonl"),
        ("check", "circle.jsonl", "--base", "tiny"),
        ("check", "circle.jsonl", "--base", "tiny", "--media-root", "circle.jsonl"),
        ("check", "data.jsonl", "--base", "tiny", "--html", "circle.jsonl/page"),
    ):
        ran = kastor(*arguments)
        assert ran.code in (1, 2) and "circle.jsonl" in ran.err and "Traceback" not in ran.err, ran.err
    assert data.read_text() == ROWS
