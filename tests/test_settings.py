"""Settings: from the environment, and on to child processes."""

import os
from pathlib import Path

import pytest

from kastor.settings import environment, load_settings


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("KASTOR_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def test_children_get_the_same_settings_but_for_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KASTOR_API_KEYS", '{"ada@example.org": "key-of-ada"}')
    mine = load_settings(
        port=0, operators=["ada@example.org"], cors_origins=["https://app.example"], no_auth=False, num_threads=2
    )
    for name, value in environment(mine).items():
        monkeypatch.setenv(name, value)
    theirs = load_settings()
    assert theirs == mine.model_copy(update={"api_keys": {}})


def test_keys_show_in_no_text_of_the_settings() -> None:
    settings = load_settings(api_keys={"ada@example.org": "key-of-ada"})
    assert "key-of-ada" not in f"{settings!r} {settings} {settings.model_dump_json()}"
