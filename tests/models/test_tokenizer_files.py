"""A tokenizer rebuilt from a GGUF cuts text as the GGUF says; what was tuned with the former one keeps it."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from kastor.domain.errors import FailedPrecondition
from kastor.domain.job import Rendering
from kastor.export.gguf_tokenizer import pre_tokenizer
from kastor.models.catalog import load_catalog
from kastor.models.chat.families import SMOLLM2
from kastor.models.chat.render import Renderer
from kastor.models.chat.tokenizer_files import is_repaired, repair_tokenizer, tokenizer_file
from kastor.models.download import ensure_local
from support.tiny_models import tiny_tokenizer


def rebuilt(folder: Path) -> Path:
    """A folder as the first release left it: GPT-2's cut, in which a blank may join the digit after it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    document = json.loads(tokenizer.to_str())
    document["model"]["vocab"]["Ġ1"] = len(document["model"]["vocab"])
    document["model"]["merges"].append(["Ġ", "1"])
    (folder / "tokenizer.json").write_text(json.dumps(document))
    (folder / "config.json").write_text("{}")
    return folder


def tokens(folder: Path, rendering: Rendering, text: str) -> list[str]:
    tokenizer = Tokenizer.from_file(str(tokenizer_file(folder, rendering)))
    return list(tokenizer.encode(text, add_special_tokens=False).tokens)


def test_every_digit_is_by_itself_where_the_gguf_says_smollm(tmp_path: Path) -> None:
    repair_tokenizer(rebuilt(tmp_path), "smollm")
    assert tokens(tmp_path, Rendering.PUBLISHED, "a 12") == ["a", "Ġ", "1", "2"]


def test_the_cut_is_that_of_smollm2s_own_tokenizer(tmp_path: Path) -> None:
    repair_tokenizer(rebuilt(tmp_path), "smollm")
    own = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    repaired = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).pre_tokenizer
    for text in ("at 12 and  34", "½² ٣٤ Ⅷ x1y2", "1:05\n\n  7", "don't 1,000.5"):
        assert repaired.pre_tokenize_str(text) == own.pre_tokenize_str(text)
    assert pre_tokenizer(json.loads((tmp_path / "tokenizer.json").read_text())["pre_tokenizer"]) == "smollm"


def test_the_first_rendering_cuts_as_before(tmp_path: Path) -> None:
    before = tokens(rebuilt(tmp_path), Rendering.FIRST, "a 12")
    repair_tokenizer(tmp_path, "smollm")
    assert tokens(tmp_path, Rendering.FIRST, "a 12") == before == ["a", "Ġ1", "2"]


def test_a_repair_may_be_interrupted_and_repeated(tmp_path: Path) -> None:
    whole = rebuilt(tmp_path / "whole")
    repair_tokenizer(whole, "smollm")
    cut = rebuilt(tmp_path / "cut")
    (cut / "tokenizer-1.json").write_bytes((cut / "tokenizer.json").read_bytes())  # killed between the two files
    assert not is_repaired(cut)
    repair_tokenizer(cut, "smollm")
    repair_tokenizer(cut, "smollm")
    assert is_repaired(cut)
    for name in ("tokenizer.json", "tokenizer-1.json"):
        assert (cut / name).read_bytes() == (whole / name).read_bytes()


def test_gpt2s_own_cut_is_left_alone(tmp_path: Path) -> None:
    before = (rebuilt(tmp_path) / "tokenizer.json").read_bytes()
    repair_tokenizer(tmp_path, "gpt-2")
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    assert tokenizer_file(tmp_path, Rendering.FIRST) == tmp_path / "tokenizer.json"


def test_a_cut_that_cannot_be_rebuilt_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="'llama-bpe'"):
        repair_tokenizer(rebuilt(tmp_path), "llama-bpe")


def test_a_tokenizer_that_transformers_knows_is_left_alone(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    before = (tmp_path / "tokenizer.json").read_bytes()
    repair_tokenizer(tmp_path, "default")
    assert (tmp_path / "tokenizer.json").read_bytes() == before


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "kastor-nano-vl"])
def test_a_cache_of_the_first_release_is_repaired_without_a_fetch(tmp_path: Path, name: str) -> None:
    base = load_catalog().base(name)
    folder = rebuilt(tmp_path / "models" / base.id)
    (folder / "tower.safetensors").touch()
    assert ensure_local(base, tmp_path, pytest.fail) == folder
    assert tokens(folder, Rendering.PUBLISHED, "a 12") == ["a", "Ġ", "1", "2"]
    assert tokens(folder, Rendering.FIRST, "a 12") == ["a", "Ġ1", "2"]


def test_a_renderer_reads_the_tokenizer_of_its_rendering(tmp_path: Path) -> None:
    repair_tokenizer(rebuilt(tmp_path), "smollm")
    first = Renderer.open(tmp_path, SMOLLM2, rendering=Rendering.FIRST)
    assert len(first.text("a 12")) + 1 == len(Renderer.open(tmp_path, SMOLLM2).text("a 12"))
