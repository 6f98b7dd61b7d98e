"""The picture of the README is drawn from a recorded run of the demo."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "demo.svg"
MAX_BYTES = 30_000


def test_the_picture_is_what_the_script_draws_from_the_recorded_run() -> None:
    done = subprocess.run(
        [sys.executable, "scripts/readme-picture", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_picture_is_small_and_shows_the_scores_of_the_run() -> None:
    run = json.loads((ROOT / "docs" / "demo.json").read_text("utf-8"))
    drawn = PICTURE.read_bytes()
    root = ElementTree.fromstring(drawn)  # noqa: S314  # our own file
    texts = [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert len(drawn) <= MAX_BYTES
    assert f"{run['tunedScore']} of {len(run['heldOut'])}" in texts
    assert f"{run['baseScore']} of {len(run['heldOut'])} correct" in texts
    assert run["tunedScore"] == sum(item["tunedRight"] for item in run["heldOut"])
