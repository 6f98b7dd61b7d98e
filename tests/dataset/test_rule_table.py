"""Every rule that a row may break is in the table, which the reference is made from."""

import re
from dataclasses import fields
from pathlib import Path

import kastor
from kastor.dataset.validation.rule_table import RULES
from kastor.domain.dataset_limits import DatasetLimits
from support.rule_names import named_rules


def test_every_rule_is_in_the_table() -> None:
    named = named_rules()
    assert len(named) > len(RULES) / 2
    assert named - RULES.keys() == set()


def test_the_table_has_no_rule_that_nothing_breaks() -> None:
    root = Path(kastor.__file__).parent
    files = [file for package in ("dataset", "media", "models", "security") for file in (root / package).rglob("*.py")]
    sources = "".join(file.read_text("utf-8") for file in files if file.name != "rule_table.py")
    assert RULES.keys() - set(re.findall(r'"([a-z0-9_]+)"', sources)) == set()


def test_limits_of_rules_are_limits_of_profiles() -> None:
    assert {rule.limit for rule in RULES.values() if rule.limit} <= {field.name for field in fields(DatasetLimits)}
