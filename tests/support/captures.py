"""What real clients sent, and what was decided about each of it.

The exchanges lie beside the repository (`../shared/api/captures/gemini`), where this project's own CI has them; they
belong to nobody's clone. `captures.csv` says of each one in which state the server is when it comes, and what the
server answers. The replies in them are a stub's: some were made to see what a client bears, so none of them counts.

A place is what is there beforehand: `empty` (nothing), `queued`, `training`, `active`, `failed`, `cancelled` (the model
of the path, in that state), `derived` (one tuned on another), `missing` (another one), `several` (a list of them),
`file` (the file of the path), `upload` (a session that has got what came before).
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT.parent / "shared" / "api" / "captures" / "gemini"
GRPC = "legacy-grpc__calls"  # decoded gRPC messages, which are no HTTP requests
NOT_SENT_ON = frozenset({"host", "content-length", "connection", "accept-encoding", "transfer-encoding"})
CUT = "...(cut)"
PATTERN = b'{"a":1}\n'  # of which the long uploads consist


@dataclass(frozen=True, slots=True)
class Decision:
    """What the server does with one capture."""

    capture: str
    profile: str
    place: str
    status: int
    why: str  # of a refusal, or where we do otherwise than the stub


@dataclass(frozen=True, slots=True)
class Capture:
    """One request of a real client."""

    name: str
    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]


def decisions() -> list[Decision]:
    """The table."""
    with (Path(__file__).parent / "captures.csv").open(encoding="utf-8", newline="") as lines:
        return [Decision(**row | {"status": int(row["status"])}) for row in csv.DictReader(lines)]


def captured() -> list[str]:
    """The names of the captures that are there."""
    return sorted(path.stem for path in FOLDER.glob("*.json") if path.stem != GRPC)


def capture(name: str) -> Capture:
    """The request of this name, whole again where the record cut a long upload."""
    request = json.loads((FOLDER / f"{name}.json").read_bytes())["request"]
    headers = {key: value for key, value in request["headers"].items() if key not in NOT_SENT_ON}
    length = int(request["headers"].get("content-length", 0))
    return Capture(name, request["method"], request["target"], headers, _body(request.get("body"), length))


def before(name: str) -> list[Capture]:
    """The earlier requests of the same call of the client, oldest first."""
    stem, _, number = name.rpartition("__")
    if not number.isdigit():
        return []
    return [capture(stem)] + [capture(f"{stem}__{n}") for n in range(2, int(number))]


def _body(recorded: Any, length: int) -> bytes:
    if recorded is None:
        return b""
    if not isinstance(recorded, str):
        return json.dumps(recorded).encode("utf-8")
    if recorded.endswith(CUT):
        return (PATTERN * (length // len(PATTERN) + 1))[:length]
    return recorded.encode("utf-8")
