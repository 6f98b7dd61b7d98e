"""Names lead to bases; what is wrong in an operator's catalog is said by name."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from kastor.domain.errors import InvalidArgument, NotFound
from kastor.models.catalog import FolderSource, entry, load_catalog

OWN = """
[bases.mine]
display_name = "Mine"
description = "A folder of ours."
family = "smollm2"
licence = "Apache-2.0"
input_token_limit = 100
output_token_limit = 20
num_parameters = 1000
source = { kind = "folder", path = "/somewhere" }
adapter = { rank = 4, alpha = 8, targets = ["q_proj"] }

[aliases]
"gemini-1.5-flash-001-tuning" = "mine"
"""


@pytest.mark.parametrize("name", ["smollm2-135m-instruct", "models/smollm2-135m-instruct"])
def test_a_base_is_found_with_and_without_prefix(name: str) -> None:
    assert load_catalog().base(name).id == "smollm2-135m-instruct"


def test_googles_name_leads_to_the_embedded_base() -> None:
    assert load_catalog().base("models/gemini-1.5-flash-001-tuning").id == "smollm2-135m-instruct"


def test_an_unknown_name_is_answered_with_the_near_ones() -> None:
    with pytest.raises(NotFound, match=r"no base model 'smolm-135' here\. Near names: models/smollm2-135m-instruct"):
        load_catalog().base("smolm-135")


def test_every_shipped_alias_leads_to_a_base_and_every_base_names_its_licence() -> None:
    catalog = load_catalog()
    assert all(target in catalog.bases for target in catalog.aliases.values())
    for base in catalog.bases.values():
        assert base.licence
        assert base.adapter.rank >= 1
        assert base.adapter.targets


def test_an_operators_file_adds_bases_and_points_aliases_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN)
    base = load_catalog(file).base("gemini-1.5-flash-001-tuning")
    assert base.id == "mine"
    assert base.source == FolderSource(Path("/somewhere"))
    assert base.adapter.targets == ("q_proj",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('family = "smollm2"', 'family = "nope"'), "bases.mine: 'nope'"),
        (('kind = "folder"', 'kind = "ftp"'), "source kind 'ftp'"),
        (("rank = 4, ", ""), "bases.mine: 'rank'"),
        (('= "mine"', '= "theirs"'), "there is no base 'theirs'"),
        (("[aliases]", "[aliases"), "own.toml"),
        (('= "mine"', '= ["mine"]'), "names in quotes"),
        (("[bases.mine]", "bases = 3\n[mine]"), "must be tables"),
        (("num_parameters", "num_paramters"), "num_paramters"),
    ],
)
def test_what_is_wrong_in_an_operators_file_is_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    file = tmp_path / "own.toml"
    file.write_text(OWN.replace(*change))
    with pytest.raises(InvalidArgument) as caught:
        load_catalog(file)
    assert said in caught.value.message


def test_a_missing_catalog_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="No such file"):
        load_catalog(tmp_path / "none.toml")


def test_the_guides_catalog_of_the_text_families_is_one(tmp_path: Path) -> None:
    """Its folders and repositories are not there; families, adapters and sources are read all the same."""
    page = Path(__file__).parents[2] / "docs" / "guide" / "models.md"
    entries = re.findall(r"```toml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    file = tmp_path / "catalog.toml"
    file.write_text("\n".join(entries))
    found = load_catalog(file)
    own = {name: base.family.name for name, base in found.bases.items() if name not in load_catalog().bases}
    assert set(own.values()) >= {"llama3", "qwen3", "qwen3-instruct", "gemma3", "smollm2"}


def test_an_entry_that_was_written_is_read_as_the_same_base_under_its_own_name(tmp_path: Path) -> None:
    for base in load_catalog().bases.values():
        (tmp_path / "own.toml").write_text(entry(base, "mine-1", 'My "own"', "Größe: a\\b.", tmp_path), "utf-8")
        found = load_catalog(tmp_path / "own.toml").base("mine-1")
        names = {"id": "mine-1", "display_name": 'My "own"', "description": "Größe: a\\b."}
        assert found == replace(base, source=FolderSource(tmp_path), tower=None, terms=None, **names)
