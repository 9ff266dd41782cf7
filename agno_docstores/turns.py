"""The jobs of a session that run one at a time, in the order in which they were accepted.

Of each session that has such jobs there is one record, its line: the jobs that have not ended, by number, and which of
them is *admitted*. A job of a line starts only while it is admitted. Invariants: one job is admitted at a time, and
stays so, running, paused or waiting to be tried again, until it has ended; whoever takes a job out of the line has read
the line first, then the job, and writes the line as he read it; a job that ended comes back by `join` alone, which
takes its admission away before the job is live again. So no job is let in while another may run, whatever runs at once.

Line and job are written one after the other: no store needs to change both together. What a crash in between leaves is
mended by who comes next: a job in line that there is not, or that has ended, is passed over; one that is live and not
in line takes its place by its number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from agno_docstores.codec import NULL, Json
from agno_docstores.kernel import Kernel
from agno_docstores.port import Delete, Expect, Expectation, Put, Ref
from agno_docstores.schema import TURNS

Entry = tuple[int, str]
#: Whether a job is there, belongs to this line, and has not ended. A linearizable read.
Live = Callable[[str], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class Line:
    """A line as read: its entries in order, which job is admitted, and the revision to write it under."""

    session_id: str
    entries: tuple[Entry, ...]
    admitted: str | None
    expect: Expectation

    @property
    def first(self) -> str | None:
        """The job whose turn it is, or is next."""
        if self.admitted is not None:
            return self.admitted
        return self.entries[0][1] if self.entries else None

    def number(self, job_id: str) -> int | None:
        return next((number for number, id in self.entries if id == job_id), None)

    def ahead(self, job_id: str) -> int:
        """How many come before a job that is in line."""
        ids = [id for _, id in self.entries]
        before = ids[: ids.index(job_id)]
        return len(before) + (self.admitted is not None and self.admitted not in (*before, job_id))

    def without(self, job_id: str) -> Line:
        entries = tuple(entry for entry in self.entries if entry[1] != job_id)
        return replace(self, entries=entries, admitted=None if self.admitted == job_id else self.admitted)

    def with_entry(self, number: int, job_id: str) -> Line:
        return replace(self, entries=tuple(sorted((*self.entries, (number, job_id)))))

    def appended(self, job_id: str) -> Line:
        return self.with_entry(max((number for number, _ in self.entries), default=0) + 1, job_id)


@dataclass(frozen=True, slots=True)
class Place:
    """A job's number in its line, and how many are ahead of it."""

    number: int
    ahead: int


async def read(kernel: Kernel, session_id: str) -> Line:
    """1 read, linearizable."""
    stored = await kernel.get(Ref(TURNS.name, session_id))
    if stored is None:
        return Line(session_id, (), None, Expect.ABSENT)
    entries = tuple((number, id) for number, id in (stored.body or {}).get("line", NULL).value())
    admitted = stored.fields["admitted"]
    return Line(session_id, entries, None if admitted is None else str(admitted), stored.rev)


async def _write(kernel: Kernel, line: Line) -> None:
    """Replace the line as it was read; an empty one is removed. Raises `Conflict`."""
    ref = Ref(TURNS.name, line.session_id)
    if line.entries:
        body = {"line": Json.of([list(entry) for entry in line.entries], "line")}
        await kernel.commit([Put(ref, {"admitted": line.admitted}, body, line.expect)])
    elif line.expect is not Expect.ABSENT:
        await kernel.commit([Delete(ref, line.expect)])


async def join(kernel: Kernel, session_id: str, job_id: str, live: Live) -> Place | None:
    """Take a place at the end, before the job is stored, or, if it has ended, is live again; what admission it had is
    over. None if it is in line and live. 2 requests; 1 more for a job that is in line."""

    async def attempt(fresh: bool) -> Place | None:
        line = await read(kernel, session_id)
        if line.number(job_id) is not None and await live(job_id):
            return None
        after = line.without(job_id).appended(job_id)
        await _write(kernel, after)
        number = after.number(job_id)
        assert number is not None
        return Place(number, after.ahead(job_id))

    return await kernel.transact(f"joining the line of session {session_id!r}", attempt)


async def admit(kernel: Kernel, session_id: str, job_id: str, number: int, live: Live) -> int:
    """Let a live job in, if it is its turn: 0, or how many are ahead of it. 1 request of the job that is admitted
    already, 2 of the first in line, 2 of one that has to wait; and 1 for each that it finds to have ended."""

    async def attempt(fresh: bool) -> int:
        line = before = await read(kernel, session_id)
        if line.admitted == job_id:
            return 0
        if line.number(job_id) is None:
            line = line.with_entry(number, job_id)
        while line.first is not None and line.first != job_id and not await live(line.first):
            line = line.without(line.first)
        ahead = line.ahead(job_id)
        if line.first == job_id:
            line, ahead = replace(line, admitted=job_id), 0
        if line != before:
            await _write(kernel, line)
        return ahead

    return await kernel.transact(f"admission of job {job_id!r} of session {session_id!r}", attempt)


async def leave(kernel: Kernel, session_id: str, job_id: str, live: Live) -> str | None:
    """Take a job that has ended out of the line; the one whose turn it is then, if it was this one's. A job that is
    live stays. 3 requests, 1 if it is not in line."""

    async def attempt(fresh: bool) -> str | None:
        line = await read(kernel, session_id)
        if line.number(job_id) is None or await live(job_id):
            return None
        after = line.without(job_id)
        await _write(kernel, after)
        return after.first if line.first == job_id else None

    return await kernel.transact(f"leaving the line of session {session_id!r}", attempt)


async def withdraw(kernel: Kernel, session_id: str, job_id: str) -> None:
    """Take a job out of the line that is about to be removed, in whatever state. 2 requests, 1 if it is not in line.
    The next one looks for itself whether its turn has come."""

    async def gone(job_id: str) -> bool:
        return False

    await leave(kernel, session_id, job_id, gone)


async def blocker(kernel: Kernel, session_id: str, job_id: str, live: Live) -> str | None:
    """The job that this one waits behind: the one that is admitted, else the first in line; None if it is its turn. 1
    request, and 1 for each of those ahead up to the first that has not ended."""
    line = await read(kernel, session_id)
    while line.first not in (None, job_id):
        assert line.first is not None
        if await live(line.first):
            return line.first
        line = line.without(line.first)
    return None
