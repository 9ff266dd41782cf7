"""From a domain's coroutine to a method of a facade, with the domain method's name, parameters and docstring.

A sync method drives the coroutine to its end; an async one awaits it, and is a real coroutine function, which Agno
looks for before it awaits. What a domain reads page by page becomes an iterator, or an async one.
"""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from agno_docstores.domains.management import Reader
from agno_docstores.io import run

if TYPE_CHECKING:
    from agno_docstores.facade import AsyncDocstore, Docstore

P = ParamSpec("P")
R = TypeVar("R")
Domain = TypeVar("Domain")


def blocking(method: Callable[Concatenate[Domain, P], Coroutine[Any, Any, R]]) -> Callable[Concatenate[Docstore, P], R]:
    """A sync method that runs a domain's coroutine to its end. It never suspends: the gateway is a blocking one."""
    domain = method.__qualname__.split(".")[0]

    @functools.wraps(method)
    def call(self: Docstore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(method(self._engine.domain(domain), *args, **kwargs))

    return call


def awaiting(
    method: Callable[Concatenate[Domain, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[AsyncDocstore, P], Coroutine[Any, Any, R]]:
    """A coroutine function that awaits a domain's: real `async def`, which Agno looks for before it awaits."""
    domain = method.__qualname__.split(".")[0]

    @functools.wraps(method)
    async def call(self: AsyncDocstore, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await method(self._engine.domain(domain), *args, **kwargs)

    return call


def paging(
    method: Callable[Concatenate[Domain, P], Reader[R]],
) -> Callable[Concatenate[Docstore, P], Iterator[list[R]]]:
    """A sync method that walks through the pages that a domain reads. Arguments are checked when it is called."""
    domain = method.__qualname__.split(".")[0]

    @functools.wraps(method)
    def call(self: Docstore, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[list[R]]:
        return _pages(method(self._engine.domain(domain), *args, **kwargs))

    return call


def apaging(
    method: Callable[Concatenate[Domain, P], Reader[R]],
) -> Callable[Concatenate[AsyncDocstore, P], AsyncIterator[list[R]]]:
    """The same as an async iterator."""
    domain = method.__qualname__.split(".")[0]

    @functools.wraps(method)
    def call(self: AsyncDocstore, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[list[R]]:
        return _apages(method(self._engine.domain(domain), *args, **kwargs))

    return call


def iterating(method: Callable[Concatenate[Domain, P], Reader[R]]) -> Callable[Concatenate[Docstore, P], Iterator[R]]:
    """`paging`, with the items one by one."""
    pages = paging(method)

    @functools.wraps(method)
    def call(self: Docstore, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[R]:
        found = pages(self, *args, **kwargs)
        return (item for page in found for item in page)

    return call


def aiterating(
    method: Callable[Concatenate[Domain, P], Reader[R]],
) -> Callable[Concatenate[AsyncDocstore, P], AsyncIterator[R]]:
    """The same as an async iterator."""
    pages = apaging(method)

    @functools.wraps(method)
    def call(self: AsyncDocstore, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[R]:
        found = pages(self, *args, **kwargs)
        return (item async for page in found for item in page)

    return call


def _pages(read: Reader[R]) -> Iterator[list[R]]:
    cursor: Any = None
    while True:
        page, cursor = run(read(cursor))
        if page:
            yield page
        if cursor is None:
            return


async def _apages(read: Reader[R]) -> AsyncIterator[list[R]]:
    cursor: Any = None
    while True:
        page, cursor = await read(cursor)
        if page:
            yield page
        if cursor is None:
            return
