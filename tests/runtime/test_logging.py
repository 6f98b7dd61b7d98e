"""What a process logs, whoever in it logs: one form, and no keys."""

import json
import subprocess
import sys

import pytest

from kastor.runtime.logging import RepeatLimit

KEY = f"kastor_{'a' * 10}_{'B' * 43}"
PROGRAM = """
import logging, sys
import structlog
from kastor.runtime.logging import configure_logs

configure_logs(sys.argv[1])
secret, key = sys.argv[2:]
log = structlog.get_logger()
log.info("request", path="/v1/models?pageSize=5&key=" + secret, headers={"authorization": "Bearer " + secret})
log.info("oops", detail=["access_token%3D" + "x", "&oauth_token=" + secret, key])
logging.getLogger("uvicorn.error").warning("GET /v1?key=%s HTTP/1.1", secret)
try:
    raise ValueError("GET /v1?access_token=" + secret + " failed with " + key)
except ValueError:
    log.exception("failed")
    logging.getLogger("library").exception("failed too")
"""


def logged(form: str, secret: str) -> str:
    """All that the program says on stderr."""
    command = [sys.executable, "-c", PROGRAM, form, secret, KEY]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize("form", ["console", "json"])
def test_no_key_is_logged_by_anybody(form: str) -> None:
    secret = "AIza-Sy_secret.1~2"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, form, secret, KEY], capture_output=True, text=True, check=True
    )
    assert secret not in done.stderr and "B" * 43 not in done.stderr
    assert done.stderr.count("ValueError") >= 2 and "pageSize=5" in done.stderr
    assert f"kastor_{'a' * 10}_***" in done.stderr


HOSTILE = """
import structlog
from kastor.runtime.logging import configure_logs

configure_logs("console")
log = structlog.get_logger()
log.info("request", path="/v1/\\x1b[2J\\x00x", host="\\x9b2J\\u202e")
try:
    raise ValueError("\\x1b]0;title\\x07")
except ValueError:
    log.exception("failed \\x1b[1A")
"""


def test_nothing_that_callers_send_is_obeyed_by_the_terminal_that_shows_the_log() -> None:
    ran = subprocess.run([sys.executable, "-c", HOSTILE], capture_output=True, text=True, check=True)
    assert "/v1/␛[2J␀x" in ran.stderr and "failed ␛[1A" in ran.stderr and "ValueError: ␛]0;title␇" in ran.stderr
    assert not any(char in ran.stderr for char in "\x1b\x00\x07\x9b\u202e")


def test_libraries_log_in_the_same_form() -> None:
    entries = [json.loads(line) for line in logged("json", "s").splitlines()]
    assert [(entry["level"], entry["event"]) for entry in entries][2] == ("warning", "GET /v1?key=*** HTTP/1.1")


def test_repeated_lines_are_left_out_and_counted_and_those_of_long_ago_are_forgotten() -> None:
    now = [0.0]
    repeats = RepeatLimit(every_s=60, clock=lambda: now[0])
    assert [repeats.passes("full") for _ in range(3)] == [{}, None, None]
    now[0] = 60
    assert repeats.passes("full") == {"repeated": 2}
    held = []
    for number in range(100):
        now[0] += 60
        assert repeats.passes(f"job {number}") == {}
        held.append(len(repeats._passed))
    assert max(held) <= 12


def test_lines_of_json_hold_nothing_that_a_terminal_obeys_and_say_all() -> None:
    program = HOSTILE.replace('"console"', '"json"') + "log.info('Zoë', path=__import__('pathlib').Path('/x'))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stderr
    assert not any(char in done for char in "\x00\x07\x1b\x9b\u202e")
    request, failed, last = map(json.loads, done.splitlines())
    assert (request["path"], request["host"]) == ("/v1/\x1b[2J\x00x", "\x9b2J\u202e")
    assert "\x1b]0;title" in failed["exception"]
    assert last["event"] == "Zoë" and "Zoë" in done
