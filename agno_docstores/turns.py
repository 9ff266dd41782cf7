"""The jobs of a session that run one at a time, in the order in which they were accepted.

Of each session that has such jobs there is one record, its line: the jobs that have not ended, by number, and which of
them is *admitted*. A job of a line starts only while it is admitted. Invariants: one job is admitted at a time, and
stays so, running, paused or waiting to be tried again, until it has ended; whoever takes a job out of the line has read
the line first, then the job, and writes the line as he read it; a job is stored before it is in line, and is out of
line before it is live again after its end. So no job is let in while another may run, whatever runs at once.

Whoever is told that a job has to wait was told so by a line that has the job in it, of a job ahead that had not ended;
and whoever ends that one writes first that it has ended, then the line, and then calls the first of the line that has
not ended. So a job may be left alone until it is called, if he who leaves it writes it as it was before he asked.

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

    @property
    def next(self) -> int:
        """The number of a job that comes in at the end."""
        return max((number for number, _ in self.entries), default=0) + 1


@dataclass(frozen=True, slots=True)
class Place:
    """A job's number in its line, and how many are ahead of it: none of one that is admitted."""

    number: int
    ahead: int


@dataclass(frozen=True, slots=True)
class Left:
    """A line that a job was to leave, as it is then; whether the job was in it, and who came first before."""

    line: Line
    there: bool
    first: str | None


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


async def admit(
    kernel: Kernel, session_id: str, job_id: str, number: int | None, live: Live, line: Line | None = None
) -> Place:
    """Let a live job in, if it is its turn; else see that it is in line, by its number, or at the end. 1 request of the
    job that is admitted already, 2 of the first in line or of one that has to wait, 3 of one that comes in behind
    another; and 1 for each that it finds to have ended. `line`, as read a moment ago, saves 1."""

    async def attempt(fresh: bool) -> Place:
        before = line if line is not None and not fresh else await read(kernel, session_id)
        after = before
        while after.first not in (None, job_id) and not await live(str(after.first)):
            after = after.without(str(after.first))
        if after.number(job_id) is None:
            after = after.with_entry(before.next if number is None else number, job_id)
        ahead = after.ahead(job_id)
        if after.first == job_id:
            after, ahead = replace(after, admitted=job_id), 0
        # One that has just come to life is written in any case: who saw it dead in this line has to read it again.
        if after != before or number is None:
            await _write(kernel, after)
        place = after.number(job_id)
        assert place is not None
        return Place(place, ahead)

    return await kernel.transact(f"admission of job {job_id!r} of session {session_id!r}", attempt)


async def leave(kernel: Kernel, session_id: str, job_id: str, live: Live) -> Left:
    """Take a job that has ended out of the line. A job that is live stays. 3 requests, 1 if it is not in line."""

    async def attempt(fresh: bool) -> Left:
        line = await read(kernel, session_id)
        if line.number(job_id) is None or await live(job_id):
            return Left(line, False, line.first)
        after = line.without(job_id)
        await _write(kernel, after)
        return Left(after, True, line.first)

    return await kernel.transact(f"leaving the line of session {session_id!r}", attempt)


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
