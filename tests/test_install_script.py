"""Which PyTorch `make install` takes, and how it is fetched: by pip alone, with the user's own configuration."""

import importlib.util
import json
import os
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "install"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"

FAKE_PYTHON = """#!{python}
import json, os, sys
with open({log!r}, "a") as log:
    log.write(json.dumps([sys.argv[1:], os.environ.get("PIP_INDEX_URL"), os.environ.get("PIP_PROGRESS_BAR")]) + "\\n")
if sys.argv[1] == "-c":
    print({versions!r}.get("torch" if "torch" in sys.argv[2] else "pip", ""))
else:
    sys.exit(any(word in " ".join(sys.argv) for word in {failing!r}))
"""


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("install_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader("install_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("system", "driver", "asked", "cpu"),
    [
        ("Linux", False, "auto", True),  # x86_64 and aarch64 alike: PyPI's wheels name CUDA for all of Linux
        ("Linux", True, "auto", False),
        ("Darwin", False, "auto", False),
        ("Windows", False, "auto", False),
        ("Linux", True, "cpu", True),
        ("Linux", False, "default", False),
    ],
)
def test_the_cpu_build_is_taken_on_linux_without_a_driver(
    script: ModuleType, system: str, asked: str, *, driver: bool, cpu: bool
) -> None:
    assert script.wants_cpu_build(system, driver, asked) is cpu


def test_an_unknown_build_is_refused(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match="known are auto, cpu and default"):
        script.wants_cpu_build("Linux", False, "cuda")


def test_a_driver_is_known_by_what_it_leaves(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not script.has_nvidia_driver([str(tmp_path / "version")])
    (tmp_path / "version").touch()
    assert script.has_nvidia_driver([str(tmp_path / "version")])
    (tmp_path / "nvidia-smi").touch(0o755)
    assert script.has_nvidia_driver([])


class Machine:
    """A Python that writes down what it is asked for; pip fails where it is asked for one of the `failing` words."""

    def __init__(self, folder: Path, failing: list[str], torch: str = "", pip: str = "26.3") -> None:
        self.python, self.log = folder / "python", folder / "log"
        versions = {"torch": torch, "pip": pip}
        text = FAKE_PYTHON.format(python=sys.executable, log=str(self.log), versions=versions, failing=failing)
        self.python.write_text(text)
        self.python.chmod(0o755)

    @property
    def installs(self) -> list[list[str]]:
        """The arguments of each `pip install`, without those that all have."""
        asked = [json.loads(line)[0] for line in self.log.read_text().splitlines()]
        return [one[one.index("-c") + 2 :] for one in asked if one[:2] == ["-m", "pip"]]


def without_gpu(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.platform, "system", lambda: "Linux")
    monkeypatch.setenv("TORCH_BUILD", "cpu")


OWN = ["torch==2.13.0+cpu"]
PYTORCHS = ["--no-deps", "--index-url", CPU_INDEX, "--timeout", "15", "--retries", "1", "torch==2.13.0+cpu"]
PYPIS = ["torch==2.13.0"]


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ([], [OWN]),  # a wheel folder, an index of one's own
        ([OWN[0] + "$"], [OWN]),
        (["constraints.txt torch==2.13.0+cpu"], [OWN, PYTORCHS]),
        (["+cpu"], [OWN, PYTORCHS, PYPIS]),  # neither can be reached
    ],
)
def test_the_cpu_build_is_looked_for_where_pip_looks_then_at_pytorchs_then_pypis_build_is_taken(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: list[str],
    expected: list[list[str]],
) -> None:
    without_gpu(script, monkeypatch)
    machine = Machine(tmp_path, failing)
    assert script.install_torch(machine.python) == 0
    assert machine.installs == expected
    assert ("2.7 GB" in capsys.readouterr().err) == (expected[-1] == PYPIS)


@pytest.mark.parametrize("build", ["2.13.0+cpu", "2.13.0", "2.13.0+cu130"])
def test_an_installed_build_is_left_alone(script: ModuleType, tmp_path: Path, build: str) -> None:
    machine = Machine(tmp_path, [], torch=build)
    assert script.install_torch(machine.python) == 0
    assert machine.installs == []


def test_a_machine_with_a_gpu_gets_pypis_build(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_BUILD", "default")
    machine = Machine(tmp_path, [])
    assert script.install_torch(machine.python) == 0
    assert machine.installs == [PYPIS]


def test_what_pip_said_is_shown_once_nothing_worked(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_gpu(script, monkeypatch)
    machine = Machine(tmp_path, ["torch"])
    assert script.install_torch(machine.python) != 0
    assert machine.installs == [OWN, PYTORCHS, PYPIS]


@pytest.mark.parametrize(("pip", "bar"), [("23.2.1", "off"), ("24.1", "raw"), ("26.3", "raw")])
def test_pips_own_configuration_reaches_it_and_an_old_pip_is_not_asked_for_what_it_does_not_know(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pip: str, bar: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://pypi.example/simple")
    machine = Machine(tmp_path, [], pip=pip)
    script.run_pip(machine.python, ["x"])
    assert json.loads(machine.log.read_text().splitlines()[-1])[1:] == ["https://pypi.example/simple", bar]


def test_downloads_are_counted_aloud_and_only_large_ones_stay(script: ModuleType) -> None:
    said = [
        "Collecting torch==2.13.0+cpu\n",
        "  Downloading https://x.example/whl/torch-2.13.0%2Bcpu-cp311-cp311-linux_x86_64.whl (191.8 MB)\n",
        "Progress 0 of 191794682\n",
        "Progress 191794682 of 191794682\n",
        "  Downloading jinja2-3.1.6-py3-none-any.whl (134 kB)\n",
        "Progress 134899 of 134899\n",
        "Installing collected packages: a, b, c\n",
    ]
    shown = list(script.progress_lines(said))
    assert [text for text, passing in shown if not passing] == ["  1  torch-2.13.0%2Bcpu  192 of 192 MB"]
    assert ("  installing 3 packages", True) in shown


def test_the_version_is_the_one_that_the_constraints_pin(script: ModuleType) -> None:
    assert f"torch=={script.TORCH}" in (SCRIPT.parents[1] / "constraints.txt").read_text().splitlines()


def test_the_script_may_be_run(script: ModuleType) -> None:
    assert os.access(SCRIPT, os.X_OK)
