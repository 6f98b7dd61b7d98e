"""What datasets and models hold never reaches a terminal as something it obeys."""

import io
import json

import pytest
from rich.table import Table
from rich.text import Text

from kastor.cli.console.terminal_text import VisibleConsole
from kastor.domain.visible_text import json_text, visible_text

HOSTILE = "a\x1b[31mb\x9bc\u202ed\u2066e\x07f\x7fg\udcffh"
UNSAFE = set("\x1b\x9b\u202e\u2066\x07\x7f\udcff")


def printed(renderable: object, **options: object) -> str:
    file = io.StringIO()
    VisibleConsole(file=file, width=80, markup=False, highlight=False, **options).print(renderable)  # type: ignore[arg-type]
    return file.getvalue()


def table() -> Table:
    made = Table("rule")
    made.add_row(HOSTILE)
    return made


@pytest.mark.parametrize("renderable", [HOSTILE, Text(HOSTILE, style="bold"), table()])
def test_no_control_character_of_a_text_is_printed(renderable: object) -> None:
    said = printed(renderable)
    assert not UNSAFE & set(said)
    assert "\u241b[31mb" in said
    assert "\\u202ed" in said


def test_colours_of_the_program_are_kept() -> None:
    said = printed(Text("a\x1bb", style="red"), force_terminal=True, color_system="standard")
    assert said.startswith("\x1b[31ma\u241bb\x1b[0m")


def test_lines_and_tabs_are_left_as_they_are() -> None:
    assert visible_text("a\tb\nc\u00e9 \u65e5\u672c") == "a\tb\nc\u00e9 \u65e5\u672c"


def test_json_is_the_same_value_without_them() -> None:
    text = json_text({"a": HOSTILE, "b": [1]}, indent=2)
    assert not UNSAFE & set(text)
    assert json.loads(text) == {"a": HOSTILE, "b": [1]}
