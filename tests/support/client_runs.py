"""Runs programs that use real clients, each in a process with no more environment than a reader would have."""

import json
import os
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCRIPTS = Path(__file__).parents[1] / "clients" / "scripts"
TIMEOUT_S = 180
OUTCOME = "outcome.json"


@dataclass(frozen=True)
class ProgramResult:
    """What a program did: its streams, what it was asked to tell, and the folder it ran in."""

    out: str
    err: str
    told: Mapping[str, Any]
    folder: Path


def script(name: str) -> str:
    """The text of a program in scripts/: what the guide has no place for."""
    return (SCRIPTS / name).read_text("utf-8")


def run_python(
    python: Path, program: str, folder: Path, variables: Mapping[str, str], tell: Mapping[str, str] | None = None
) -> ProgramResult:
    """Run the program, then note the value of each expression in `tell` (JSON, by name)."""
    noted = ", ".join(f"{name!r}: {expression}" for name, expression in (tell or {}).items())
    note = f"import json as _json\nopen({OUTCOME!r}, 'w').write(_json.dumps({{{noted}}}))\n"
    (folder / "program.py").write_text(f"{program}\n{note}", "utf-8")
    return _run([str(python), "program.py"], folder, variables)


def run_node(
    modules: Path, program: str, folder: Path, variables: Mapping[str, str], tell: Sequence[str]
) -> ProgramResult:
    """Run the program as a module beside these node_modules, then note the variables named in `tell`."""
    written = f'writeFileSync("{OUTCOME}", JSON.stringify({{ {", ".join(tell)} }}));'
    note = f'import {{ writeFileSync }} from "node:fs";\n{written}'
    (folder / "node_modules").symlink_to(modules)
    (folder / "program.mjs").write_text(f"{program}\n{note}\n", "utf-8")
    return _run(["node", "program.mjs"], folder, variables)


def run_shell(program: str, folder: Path, variables: Mapping[str, str]) -> ProgramResult:
    """Run the program by bash, ended by the first command that fails."""
    (folder / "program.sh").write_text(program, "utf-8")
    return _run(["bash", "-eu", "program.sh"], folder, variables)


def _run(command: Sequence[str], folder: Path, variables: Mapping[str, str]) -> ProgramResult:
    reader = {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8", "NO_PROXY": "127.0.0.1,localhost"}
    done = subprocess.run(
        command, cwd=folder, env=reader | variables, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    said = textwrap.indent(f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}", "  ")
    assert done.returncode == 0, f"{' '.join(command)} exited with {done.returncode}:\n{said}"
    outcome = folder / OUTCOME
    return ProgramResult(done.stdout, done.stderr, json.loads(outcome.read_bytes()) if outcome.exists() else {}, folder)
