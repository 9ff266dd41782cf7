"""The surface of Agno's `BaseDb` and `AsyncBaseDb`: what it is, what it was when we last looked, what we serve of it.

`surface.json` is the manifest that this version of ours was written against. After an upgrade of Agno, `test_surface`
tells what differs; once that is dealt with, `python -m tests.surface --write` records the new surface.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agno.db.base import AsyncBaseDb, BaseDb

MANIFEST = Path(__file__).with_name("surface.json")
BASES: tuple[type[Any], ...] = (BaseDb, AsyncBaseDb)

Surface = dict[str, dict[str, str]]


def methods(cls: type[Any]) -> dict[str, Callable[..., Any]]:
    """The public methods of a class, and its constructor."""
    found = inspect.getmembers(cls, lambda member: inspect.isfunction(member) or inspect.ismethod(member))
    return {name: method for name, method in found if not name.startswith("_") or name == "__init__"}


class _Shown:
    """A default in a form that is the same in every process: an `object()` that stands for "not given" has no other."""

    def __init__(self, default: Any) -> None:
        self._text = "<not given>" if type(default) is object else repr(default)

    def __repr__(self) -> str:
        return self._text


def described(method: Callable[..., Any]) -> str:
    """A method on one line: whether it is abstract and async, its parameters and defaults; annotations left out."""
    signature = inspect.signature(method)
    shown = [
        p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else _Shown(p.default))
        for p in signature.parameters.values()
    ]
    bare = signature.replace(parameters=shown, return_annotation=signature.empty)
    words = ["abstract"] * getattr(method, "__isabstractmethod__", False)
    words += ["async"] * inspect.iscoroutinefunction(method)
    return " ".join([*words, f"def {bare}"])


def installed() -> Surface:
    """The surface of the Agno that is installed."""
    return {base.__name__: {name: described(method) for name, method in methods(base).items()} for base in BASES}


def recorded() -> Surface:
    """The surface in the manifest."""
    return dict(json.loads(MANIFEST.read_text()))


def difference(before: Surface, after: Surface) -> str:
    """What differs, a line for each method: empty if nothing does."""

    def lines(surface: Surface) -> list[str]:
        return [
            f"{cls}.{name}: {text}" for cls, names in sorted(surface.items()) for name, text in sorted(names.items())
        ]

    found = difflib.unified_diff(lines(before), lines(after), "recorded", "installed", n=0, lineterm="")
    return "\n".join(line for line in found if not line.startswith(("@@", "---", "+++")))


# --- What we serve ----------------------------------------------------------------------------------------------------


def _refuses(method: Callable[..., Any]) -> bool:
    """Whether the body of a method of Agno's base does nothing but raise `NotImplementedError`."""
    if getattr(method, "__isabstractmethod__", False):
        return True
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(method))).body
    assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
    body = [node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))]
    return len(body) == 1 and isinstance(body[0], ast.Raise) and "NotImplementedError" in ast.dump(body[0])


def _base(cls: type[Any]) -> type[Any]:
    return next(base for base in BASES if issubclass(cls, base))


def unserved(cls: type[Any]) -> list[str]:
    """The methods of Agno's base that this class answers with `NotImplementedError`."""

    def refused(name: str, method: Callable[..., Any]) -> bool:
        return getattr(cls, name) is getattr(_base(cls), name) and _refuses(method)

    return [name for name, method in _served_from(cls) if refused(name, method)]


def _served_from(cls: type[Any]) -> Iterator[tuple[str, Callable[..., Any]]]:
    return ((name, method) for name, method in methods(_base(cls)).items() if name != "__init__")


def served(cls: type[Any]) -> tuple[int, int]:
    """How many of the public methods of Agno's base this class serves, and of how many."""
    total = sum(1 for _ in _served_from(cls))
    return total - len(unserved(cls)), total


def main() -> int:
    if "--write" in sys.argv[1:]:
        MANIFEST.write_text(json.dumps(installed(), indent=1, sort_keys=True) + "\n")
        return 0
    found = difference(recorded(), installed())
    print(found or "the installed Agno has the recorded surface")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
