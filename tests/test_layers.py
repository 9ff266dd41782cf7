"""Which module may import which: `port <- driver`, `port <- kernel <- domains <- facades`, and the core no plugin.

Read from the source, not from what happens to be imported. A new module of the core fails until it is given a layer.
"""

from __future__ import annotations

import ast
import importlib.metadata
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import agno_docstores
from agno_docstores.facade import AsyncDocstore, Docstore, StorePlugin

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = ("mongo", "dynamo", "firestore")

#: Layer of each module of the core; a package's name covers what is in it.
LAYERS = {
    "errors": "port",
    "keys": "port",
    "codec": "port",
    "io": "port",
    "port": "port",
    "schema": "schema",
    "kernel": "kernel",
    "chunks": "kernel",
    "totals": "kernel",
    "uniqueness": "kernel",
    "history": "domains",
    "companions": "domains",
    "transcript_records": "domains",
    "lifetimes": "domains",
    "rows": "domains",
    "catalog": "domains",
    "tallies": "domains",
    "turns": "domains",
    "merging": "port",
    "session_records": "domains",
    "domains": "domains",
    "options": "facade",
    "bridge": "facade",
    "cleanup": "facade",
    "facade": "facade",
    "summaries": "facade",
    "memory": "store",
    "persistence": "store",
    "": "store",
    "cli": "tool",
    "conformance": "tool",
}

#: What each layer may import from this project. A plugin's modules are a driver but for its `__init__`, a store.
MAY_IMPORT = {
    "port": {"port"},
    "schema": {"port", "schema"},
    "driver": {"port", "driver"},
    "kernel": {"port", "schema", "kernel"},  # of the schema the kinds that are the kernel's own: chunks, reminders
    "domains": {"port", "schema", "kernel", "domains"},
    "facade": {"port", "schema", "kernel", "domains", "facade"},
    "store": {"port", "schema", "driver", "facade", "store"},
    "tool": {"port", "schema", "kernel", "domains", "facade", "store", "tool"},
    "emulator": {"emulator"},
}

#: Layers below Agno's semantics. (`codec` is not among them: it speaks Agno's dialect of JSON.)
WITHOUT_AGNO = ("chunks", "errors", "io", "kernel", "keys", "port", "schema", "totals", "uniqueness")
CLIENTS = {"pymongo", "bson", "motor", "boto3", "botocore", "aiobotocore", "google", "grpc"}
#: Everything waits, sleeps and reads clocks through the gateway.
WAITING = {"asyncio", "time", "threading"}


def modules() -> dict[str, Path]:
    """Every module of the four distributions, by its dotted name."""
    found = {}
    for base in (ROOT, *(ROOT / plugin for plugin in PLUGINS)):
        for package in base.glob("agno_docstores*"):
            for file in package.rglob("*.py"):
                parts = file.relative_to(base).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def core(name: str) -> bool:
    return name.split(".")[0] == "agno_docstores"


def layer(name: str) -> str:
    """The layer of a module of this project."""
    parts = name.split(".")
    if core(name):
        first = parts[1] if len(parts) > 1 else ""
        assert first in LAYERS, f"{name} has no layer: give it one in LAYERS"
        return LAYERS[first]
    if "emulator" in parts:
        return "emulator"
    return "driver" if len(parts) > 1 else "store"


def imports(name: str) -> Iterator[tuple[str, str]]:
    """(module, name in it or "") of each import anywhere in a module; `from package import module` counts as module."""
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import; here all are absolute"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                yield (inner, "") if inner in MODULES else (module, alias.name)


def imported_packages(name: str) -> set[str]:
    return {module.split(".")[0] for module, _ in imports(name)}


each_module = pytest.mark.parametrize("name", sorted(MODULES))


def test_the_modules_are_found() -> None:
    assert {"agno_docstores.kernel", "agno_docstores.domains.sessions"} <= MODULES.keys()
    assert {f"agno_docstores_{plugin}.driver" for plugin in PLUGINS} <= MODULES.keys()


@each_module
def test_imports_go_down_the_layers(name: str) -> None:
    allowed = MAY_IMPORT[layer(name)]
    upward = {module for module, _ in imports(name) if module in MODULES and layer(module) not in allowed}
    assert not upward, f"{name} ({layer(name)}) may import {sorted(allowed)} only"


@each_module
def test_a_plugin_imports_no_other_plugin_and_the_core_none(name: str) -> None:
    own = name.split(".")[0]
    foreign = {package for package in imported_packages(name) if package.startswith("agno_docstores_")} - {own}
    assert not foreign


@pytest.mark.parametrize("name", sorted(name for name in MODULES if core(name)))
def test_the_core_imports_no_stores_client(name: str) -> None:
    assert not imported_packages(name) & CLIENTS


@pytest.mark.parametrize(
    "name",
    sorted({f"agno_docstores.{module}" for module in WITHOUT_AGNO} | {m for m in MODULES if layer(m) == "driver"}),
)
def test_kernel_and_drivers_do_not_know_agno(name: str) -> None:
    assert "agno" not in imported_packages(name)


@pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name in MODULES
        if name in ("agno_docstores.kernel", "agno_docstores.chunks", "agno_docstores.history")
        or name.startswith("agno_docstores.domains")
        or name.endswith(".driver")
    ),
)
def test_nothing_waits_but_through_the_gateway(name: str) -> None:
    assert not imported_packages(name) & WAITING


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("agno_docstores.domains.")))
def test_domain_classes_do_not_use_one_another(name: str) -> None:
    classes = {
        (module, inner)
        for module, inner in imports(name)
        if module.startswith("agno_docstores.domains.") and inner[:1].isupper() and not inner.isupper()
    }
    assert not classes, "what domains share is a function that takes the kernel"


# --- Four distributions, one version ----------------------------------------------------------------------------------


def project(folder: str) -> dict[str, Any]:
    return dict(tomllib.loads((ROOT / folder / "pyproject.toml").read_text()))


def test_all_distributions_have_one_version() -> None:
    versions = {folder: project(folder)["project"]["version"] for folder in (".", *PLUGINS)}
    assert set(versions.values()) == {agno_docstores.__version__}, versions


def test_distributions_require_each_other_in_that_version() -> None:
    version = agno_docstores.__version__
    extras = project(".")["project"]["optional-dependencies"]
    assert [extras[plugin] for plugin in PLUGINS] == [[f"agno-docstores-{plugin}=={version}"] for plugin in PLUGINS]
    siblings = [one for needed in extras.values() for one in needed if one.startswith("agno-docstores")]
    assert all(one.endswith(f"=={version}") for one in siblings), siblings
    for plugin in PLUGINS:
        assert f"agno-docstores=={version}" in project(plugin)["project"]["dependencies"]


def test_the_lock_file_is_of_that_version_and_of_no_private_index() -> None:
    text = (ROOT / "uv.lock").read_text()
    packages = tomllib.loads(text)["package"]
    ours = {one["name"]: one["version"] for one in packages if one["name"].startswith("agno-docstores")}
    names = ("agno-docstores", *(f"agno-docstores-{plugin}" for plugin in PLUGINS))
    assert ours == dict.fromkeys(names, agno_docstores.__version__)
    registries = {one["source"]["registry"] for one in packages if "registry" in one["source"]}
    assert registries == {"https://pypi.org/simple"}


# --- Plugins ----------------------------------------------------------------------------------------------------------


def test_every_store_is_announced() -> None:
    names = [entry.name for entry in importlib.metadata.entry_points(group="agno_docstores.stores")]
    assert sorted(names) == sorted(("memory", *PLUGINS))


@pytest.mark.parametrize("name", ["memory", *PLUGINS])
def test_an_entry_point_loads_both_classes(name: str) -> None:
    (entry,) = importlib.metadata.entry_points(group="agno_docstores.stores", name=name)
    plugin = entry.load()
    assert isinstance(plugin, StorePlugin)
    assert plugin.name == name
    assert issubclass(plugin.sync, Docstore)
    assert issubclass(plugin.asynchronous, AsyncDocstore)
    # Agno's migrations dispatch on the class's name.
    assert plugin.sync.__name__.endswith("Docstore")
    assert plugin.asynchronous.__name__ == f"Async{plugin.sync.__name__}"
