"""The guide as a whole: every page is run by a test, and its links lead somewhere."""

import re
from pathlib import Path

import pytest

from support.guide_page import RUNNABLE, blocks, guide_pages

HERE = Path(__file__).parent
PAGES = [pytest.param(page, id=page.name) for page in guide_pages()]


def test_there_is_a_guide() -> None:
    assert len(PAGES) >= 4


@pytest.mark.parametrize("page", PAGES)
def test_every_page_with_a_program_is_run_by_a_test(page: Path) -> None:
    if any(block.language in RUNNABLE for block in blocks(page.read_text("utf-8"))):
        tests = [test.name for test in HERE.glob("test_*.py") if f'"{page.name}"' in test.read_text("utf-8")]
        assert tests, f"no test runs {page.name}"


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_in_which_language_it_is(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text.count("```") == 2 * len(blocks(text))
    assert {block.language for block in blocks(text)} <= {*RUNNABLE, "console", "text", "toml", "json"}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target
