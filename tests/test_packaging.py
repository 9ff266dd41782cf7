"""What a user installs: four wheels that hold what they should, find each other, and work in an empty environment."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import agno_docstores

ROOT = Path(__file__).resolve().parents[1]
VERSION = agno_docstores.__version__
PLUGINS = ("mongo", "dynamo", "firestore")
PACKAGES = ("agno_docstores", *(f"agno_docstores_{plugin}" for plugin in PLUGINS))


def uv(*arguments: str) -> str:
    """Run the uv of this environment; its output. It must not fall back on this very environment."""
    program = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    assert program is not None, "uv is a development dependency"
    inherited = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, env=inherited)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The built wheels by package."""
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--all-packages", "--wheel", "--out-dir", str(folder))
    return {file.name.split("-")[0]: file for file in folder.glob("*.whl")}


def install(folder: Path, wheels: dict[str, Path], *requirements: str) -> Path:
    """The interpreter of a new environment with these requirements; ours come from the built wheels alone."""
    python = folder / "bin" / "python"
    uv("venv", "--quiet", "--python", sys.executable, str(folder))
    links = str(next(iter(wheels.values())).parent)
    # `agno-docstores` of the index, should there be one of that version, must not stand in for what was built.
    pins = folder / "pins.txt"
    pins.write_text("\n".join(f"{name.replace('_', '-')} @ {file.as_uri()}" for name, file in wheels.items()))
    uv(
        *("pip", "install", "--quiet", "--python", str(python)),
        *("--find-links", links, "--constraints", str(pins), *requirements),
    )
    return python


def run(python: Path, code: str) -> str:
    # Away from the repository, whose folders would be found before what was installed.
    done = subprocess.run([str(python), "-I", "-c", code], cwd=python.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_there_are_four_wheels_of_one_version(wheels: dict[str, Path]) -> None:
    assert {name: file.name.split("-")[1] for name, file in wheels.items()} == dict.fromkeys(PACKAGES, VERSION)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_wheel_holds_its_package_and_nothing_else(wheels: dict[str, Path], package: str) -> None:
    with zipfile.ZipFile(wheels[package]) as wheel:
        names = wheel.namelist()
    info = f"{package}-{VERSION}.dist-info"
    assert {name.split("/")[0] for name in names} == {package, info}
    assert f"{package}/py.typed" in names
    assert f"{info}/licenses/LICENSE" in names
    source = ROOT / (package.removeprefix("agno_docstores").strip("_") or ".") / package
    modules = {file.relative_to(source.parent).as_posix() for file in source.rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == modules


@pytest.mark.parametrize("plugin", PLUGINS)
def test_an_extra_brings_its_store_and_no_other(tmp_path: Path, wheels: dict[str, Path], plugin: str) -> None:
    python = install(tmp_path / "env", wheels, f"agno-docstores[{plugin}]")
    code = (
        "from importlib.metadata import entry_points\n"
        "print(*sorted(e.load().name for e in entry_points(group='agno_docstores.stores')))"
    )
    assert run(python, code) == " ".join(sorted(("memory", plugin)))
    assert run(python, "import agno_docstores as a; print(a.__version__)") == VERSION


def test_the_core_alone_works_and_has_a_command_line(tmp_path: Path, wheels: dict[str, Path]) -> None:
    python = install(tmp_path / "env", wheels, "agno-docstores")
    code = (
        "from agno.session import AgentSession\n"
        "from agno_docstores import MemoryDocstore\n"
        "db = MemoryDocstore()\n"
        "db.upsert_session(AgentSession(session_id='s1', agent_id='a1'))\n"
        "print(db.get_session('s1').agent_id)"
    )
    assert run(python, code) == "a1"
    done = subprocess.run([str(python.parent / "agno-docstores"), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_conformance_suite_is_shipped_and_runs_on_another_store(tmp_path: Path, wheels: dict[str, Path]) -> None:
    """As its documentation tells the author of another database: a fixture, an import, his own pytest."""
    python = install(tmp_path / "env", wheels, "agno-docstores[conformance]")
    own = tmp_path / "own"
    own.mkdir()
    (own / "conftest.py").write_text(
        "import pytest\n"
        "from agno_docstores import MemoryDocstore\n"
        "pytest_plugins = ['agno_docstores.conformance.plugin']\n"
        "@pytest.fixture\n"
        "def docstore():\n"
        "    return MemoryDocstore()\n"
    )
    (own / "test_conformance.py").write_text("from agno_docstores.conformance.sessions import *\n")
    done = subprocess.run(
        [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(own)], cwd=own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout.splitlines()[-1]
