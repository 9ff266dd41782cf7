"""Transcripts of external agents: how entries are added to one, and how they go.

A transcript is a head and its entries, children in the order of `position`. Invariants: an append is a stretch of the
order, taken in one step under the head as it was read, so that of two at once neither loses, doubles or divides an
entry; an entry with a uuid is there once; whoever deletes an Agno session finds every entry that it wrote, and goes on
where another stopped.

Each Agno session's entries carry the token of its *link*. The head says which links are live: from the step on that
takes a link out, or notes since when it counts, the entries from before are gone for every reader, also those that a
slower writer still stores. A reader leaves out what belongs to an Agno session that has ended, too. Where one commit
can hold records together (DynamoDB, Firestore) head and entries are one commit. Where it cannot (MongoDB), the head
takes the entries with it as `pending`, where readers find them; the next append stores them as records before its own
step. That step fails if a deletion came between: then the append takes back what it stored, which the deletion may have
passed by. (A writer that dies just there leaves entries that no reader sees, and no deletion finds.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agno_docstores import keys
from agno_docstores.codec import NULL, Json
from agno_docstores.errors import Conflict
from agno_docstores.kernel import Kernel, Query, new_token
from agno_docstores.lifetimes import Ends
from agno_docstores.port import (
    Delete,
    Eq,
    Expect,
    Expectation,
    FieldValue,
    In,
    Put,
    Range,
    Ref,
    Span,
    Stored,
    Write,
    as_int,
)
from agno_docstores.schema import TRANSCRIPT_ENTRIES, TRANSCRIPT_LINKS, TRANSCRIPTS

# Of one step: DynamoDB takes 100 items and 4 MB, an entry is two items, a character at most 4 bytes.
MOST_ENTRIES, MOST_TEXT = 45, 800_000


@dataclass(frozen=True, slots=True)
class Name:
    """What a transcript is called. `subpath`: "" for the main transcript."""

    framework: str
    project_key: str
    session_id: str
    subpath: str

    @property
    def project(self) -> str:
        return project_of(self.framework, self.project_key)

    @property
    def conversation(self) -> str:
        return keys.encode((self.framework, self.project_key, self.session_id))

    @property
    def ref(self) -> Ref:
        id = keys.encode((self.framework, self.project_key, self.session_id, self.subpath))
        return Ref(TRANSCRIPTS.name, id, self.conversation)


def project_of(framework: str, project_key: str) -> str:
    return keys.encode((framework, project_key))


def link_ref(agno_session_id: str, transcript: str) -> Ref:
    return Ref(TRANSCRIPT_LINKS.name, keys.encode((agno_session_id, transcript)), agno_session_id)


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that is to be added. `uuid`: None for one that is always added."""

    uuid: str | None
    text: Json

    @classmethod
    def of(cls, entry: Mapping[str, Any]) -> Entry:
        """Raises `UnserializableValueError`, `InvalidIdError`."""
        uuid = entry.get("uuid") or None
        return cls(None if uuid is None else keys.check_id("uuid", str(uuid)), Json.of(entry, "entry"))


@dataclass(slots=True)
class _Head:
    """A transcript's head, as read and as it is to be."""

    ref: Ref
    fields: dict[str, FieldValue]
    expect: Expectation
    #: By Agno session: token; time of the last entry (ms); since when it counts (microseconds), if not from the first.
    links: dict[str, list[Any]] = field(default_factory=dict)
    gone: list[list[str]] = field(default_factory=list)  # Agno session, token
    pending: list[list[Any]] = field(default_factory=list)  # id, position, token, created_at, entry

    @classmethod
    def new(cls, name: Name) -> _Head:
        fields: dict[str, FieldValue] = {
            "conversation": name.conversation,
            "project": name.project,
            "session_id": name.session_id,
            "subpath": name.subpath,
        }
        return cls(name.ref, fields, Expect.ABSENT)

    @classmethod
    def of(cls, stored: Stored) -> _Head:
        links, gone, pending = (_part(stored, name) for name in TRANSCRIPTS.body)
        return cls(stored.ref, dict(stored.fields), stored.rev, links or {}, gone or [], pending or [])

    @property
    def position(self) -> int:
        return as_int(self.fields.get("position"))

    def drop(self, agno_session_id: str) -> None:
        """Take a session's link out; its entries are gone with the step that stores this."""
        token, *_ = self.links.pop(agno_session_id)
        self.gone.append([agno_session_id, token])
        self.pending = [one for one in self.pending if one[2] != token]

    def drop_until(self, agno_session_id: str, until: int) -> None:
        """Have a session's link count from a time on (microseconds) only; with no entry since, take it out."""
        token, last, *since = self.links[agno_session_id]
        if last * 1000 <= until:
            self.drop(agno_session_id)
            return
        self.links[agno_session_id] = [token, last, max([until, *since])]
        self.pending = [one for one in self.pending if one[2] != token or one[3] * 1000 > until]

    def counts(self, ended: Mapping[str, int]) -> Counts:
        """Which entries there are, where these Agno sessions have ended at these times."""
        return Counts(
            {token: max([ended.get(session, 0), *since]) for session, (token, _, *since) in self.links.items()}
        )

    def mtime(self, ended: Mapping[str, int]) -> int | None:
        """When the last entry that there is was added, epoch milliseconds; None: there is none. What of several
        sessions' is gone may have been later."""
        counts = self.counts(ended)
        return max((last for token, last, *_ in self.links.values() if counts(token, last)), default=None)

    def put(self) -> Put:
        mtime = self.mtime({})
        fields = {
            **self.fields,
            "listed": self.fields["project"] if mtime is not None and not self.fields["subpath"] else None,
            "mtime": mtime,
        }
        parts = dict(zip(TRANSCRIPTS.body, (self.links, self.gone, self.pending), strict=True))
        return Put(self.ref, fields, {name: Json.of(part, name) for name, part in parts.items()}, self.expect)

    def records(self, pending: Sequence[Sequence[Any]], expect: Expectation) -> list[Put]:
        """The entries as records."""
        found = []
        for id, position, token, created_at, entry in pending:
            ref = Ref(TRANSCRIPT_ENTRIES.name, id, self.ref.id, position)
            fields = {"transcript": self.ref.id, "position": position, "link": token, "created_at": created_at}
            found.append(Put(ref, fields, {"entry": Json.parsed(entry)}, expect))
        return found


@dataclass(frozen=True, slots=True)
class Counts:
    """Which entries of a transcript there are: of each live token, those added after a time (microseconds)."""

    since: Mapping[str, int]

    def __call__(self, token: Any, created_at: Any) -> bool:
        """`created_at`: epoch milliseconds."""
        since = self.since.get(token)
        return since is not None and created_at * 1000 > since


def _part(stored: Stored, name: str) -> Any:
    return (stored.body or {}).get(name, NULL).value()


# --- Entries ----------------------------------------------------------------------------------------------------------


async def append(kernel: Kernel, ends: Ends, name: Name, agno_session_id: str, entries: Sequence[Entry]) -> None:
    """Add entries in their order; what is there by its uuid already stays as it is. 1 request for each 45 of them, 1 or
    2 more where the transcript is known to the store, 3 where some of them are; on MongoDB 3 to 5."""
    for batch in _batches(entries):

        async def attempt(fresh: bool, batch: Sequence[Entry] = batch) -> None:
            await _append(kernel, ends, name, agno_session_id, batch, fresh)

        await kernel.transact(f"append to transcript {name.session_id!r}", attempt)


async def _append(
    kernel: Kernel, ends: Ends, name: Name, agno_session_id: str, entries: Sequence[Entry], fresh: bool
) -> None:
    atomic = kernel.driver.atomic
    known = kernel.recent.get(name.ref) if atomic and not fresh else None
    stored = known if isinstance(known, Stored) else await kernel.get(name.ref)
    head = _Head.of(stored) if stored is not None else _Head.new(name)
    by_id: dict[str, Entry] = {}
    for number, entry in enumerate(entries, 1):
        by_id.setdefault(_entry_id(name.ref, head.position + number, entry), entry)
    new = list(by_id)
    if (fresh or not atomic) and stored is not None:
        found = await kernel.get_many([Ref(TRANSCRIPT_ENTRIES.name, id, name.ref.id) for id in new])
        there = [record for record in found if record is not None]
        said = [(id, token, at) for id, _, token, at, _ in head.pending if id in by_id]
        counts = head.counts(await ends(head.links) if there or said else {})
        live = {record.ref.id for record in there if counts(record.fields["link"], record.fields["created_at"])}
        gone = [record.ref.id for record in there if record.ref.id not in live]
        if gone:  # what a deletion has not come to yet, or is to come to; or of a link newer than the head as read
            await _take_away(kernel, ends, name.ref, gone)
            raise Conflict([name.ref])
        live |= {id for id, token, at in said if counts(token, at)}
        new = [id for id in new if id not in live]
    if not new:
        return
    pending = [one for one in head.pending if one[0] not in new]  # what is said anew has ended with its session
    now = int(kernel.io.now() * 1000)
    first = agno_session_id not in head.links
    token, _, *since = [new_token(), None] if first else head.links[agno_session_id]
    added = [[id, head.position + n, token, now, by_id[id].text.value()] for n, id in enumerate(new, 1)]
    head.links[agno_session_id] = [token, now, *since]
    head.fields["position"] = head.position + len(entries)
    if not atomic:
        head.pending = added
    put = head.put()
    link = Put(
        link_ref(agno_session_id, name.ref.id),
        {
            "agno_session_id": agno_session_id,
            "transcript": name.ref.id,
            "conversation": name.conversation,
            "linked_at": int(kernel.io.now() * 1e6),
        },
    )
    links: list[Write] = [link] if first else []
    if not atomic:
        try:
            await _store(kernel, head.records(pending, Expect.ABSENT))
            for write in links:
                await kernel.commit([write])
            await kernel.commit([put])
        except Conflict:
            await _take_away(kernel, ends, name.ref, [id for id, *_ in pending])
            raise
        for write in links:  # again, for a deletion may have taken it for one of its own meanwhile
            await kernel.commit([write])
        return
    try:
        rev, *_ = await kernel.commit([put, *head.records(added, Expect.ABSENT), *links])
    except Conflict:
        kernel.recent.forget(name.ref)
        raise
    assert rev is not None
    kernel.recent.note(name.ref, Stored(name.ref, rev, dict(put.fields), dict(put.body)))


def _entry_id(transcript: Ref, position: int, entry: Entry) -> str:
    return keys.encode((transcript.id, position if entry.uuid is None else entry.uuid))


async def _store(kernel: Kernel, puts: Sequence[Put]) -> None:
    """Store a head's pending entries as records, if they are none yet. Raises `Conflict` if an id has another's: the
    head is an old one, or a deletion has not come to that yet. 1 request."""
    failed = await kernel.write_many(puts)
    for failure in failed:
        if not isinstance(failure.error, Conflict):
            raise failure.error
    refused = [write for failure in failed if isinstance(write := failure.write, Put)]
    for put, there in zip(refused, await kernel.get_many([put.ref for put in refused]), strict=True):
        if there is None or any(there.fields[name] != put.fields[name] for name in ("link", "position")):
            raise Conflict([put.ref])


async def _take_away(kernel: Kernel, ends: Ends, transcript: Ref, ids: Sequence[str]) -> None:
    """Remove those of these entries that are gone for every reader."""
    found = await kernel.get_many([Ref(TRANSCRIPT_ENTRIES.name, id, transcript.id) for id in ids])
    stored = await kernel.get(transcript)  # after them: what does not count then will not count again
    head = _Head.of(stored) if stored is not None else None
    counts = head.counts(await ends(head.links)) if head is not None else Counts({})
    for record in found:
        if record is not None and not counts(record.fields["link"], record.fields["created_at"]):
            with suppress(Conflict):  # it is gone, or another has given the id an entry anew
                await kernel.commit([Delete(record.ref, record.rev)])


def _batches(entries: Sequence[Entry]) -> Iterator[Sequence[Entry]]:
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        if batch and (len(batch) == MOST_ENTRIES or size + len(entry.text.text) > MOST_TEXT):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += len(entry.text.text)
    if batch:
        yield batch


async def entries_of(kernel: Kernel, ends: Ends, name: Name) -> list[Any]:
    """The entries in their order. Linearizable as to what was acknowledged. 1 request, then 1 for each page of them and
    at the same time those of `ends`."""
    stored = await kernel.get(name.ref)
    if stored is None:
        return []
    # The head first: what it has pending then is there, or stored as records by the time that those are read.
    head = _Head.of(stored)
    entries = Query(TRANSCRIPT_ENTRIES, (Eq("transcript", name.ref.id),), "position")
    both: list[Awaitable[Any]] = [kernel.page(entries), ends(head.links)]
    found, ended = await kernel.io.gather(*both)
    counts = head.counts(ended)
    by_position = {position: entry for _, position, token, at, entry in head.pending if counts(token, at)}
    for record in found:
        if counts(record.fields["link"], record.fields["created_at"]):
            by_position[as_int(record.fields["position"])] = _part(record, "entry")
    return [by_position[position] for position in sorted(by_position)]


async def with_entries(kernel: Kernel, ends: Ends, query: Query) -> list[tuple[Stored, int]]:
    """The transcripts of a query that have entries, each with the time of the last (epoch ms). 1 request for each page,
    and those of `ends`."""
    found = await kernel.page(query)
    heads = [_Head.of(stored) for stored in found]
    ended = await ends({session for head in heads for session in head.links})
    times = [head.mtime(ended) for head in heads]
    return [(stored, mtime) for stored, mtime in zip(found, times, strict=True) if mtime is not None]


# --- Removal ----------------------------------------------------------------------------------------------------------


async def remove(kernel: Kernel, transcript: Ref) -> None:
    """Remove a transcript. From the first write on nobody reads it; an interrupted removal is finished by its
    repetition, but for links, which say no more than that a session had entries and go with the session. 1 request
    where there is nothing, else 4, the entries' headers, and 3 for each Agno session."""
    for session in await _remove(kernel, transcript, None):
        await _unlink(kernel, session, transcript)


async def _remove(kernel: Kernel, transcript: Ref, agno_session_id: str | None, until: int | None = None) -> list[str]:
    """Remove the entries of an Agno session, or of all, added by a time (microseconds since the epoch; None: ever); and
    the transcript, if none are left. The sessions of which all entries were removed."""
    going: list[str] = []

    async def attempt(fresh: bool) -> _Head | None:
        stored = await kernel.get(transcript)
        if stored is None:
            return None
        head = _Head.of(stored)
        going[:] = [session for session in head.links if agno_session_id in (None, session)]
        for session in going:
            if until is None:
                head.drop(session)
            else:
                head.drop_until(session, until)
        if going:
            await kernel.commit([head.put()])
        return head

    what = f"removal of transcript {transcript.id!r}"
    head = await kernel.transact(what, attempt)
    kernel.recent.forget(transcript)
    if head is None:
        return []
    index = TRANSCRIPT_ENTRIES.index("order")
    for session in going:
        if session in head.links and until is not None:
            before = (Eq("link", head.links[session][0]), Range("created_at", None, until // 1000))
            await kernel.purge_children(transcript.id, TRANSCRIPT_ENTRIES, index, before)
    if not head.gone:
        return []
    tokens = tuple(token for _, token in head.gone)
    await kernel.purge_children(transcript.id, TRANSCRIPT_ENTRIES, index, (In("link", tokens),))

    async def tidy(fresh: bool) -> None:
        stored = await kernel.get(transcript)
        if stored is None:
            return
        left = _Head.of(stored)
        left.gone = [one for one in left.gone if one[1] not in tokens]
        await kernel.commit([left.put() if left.links or left.gone else Delete(transcript, stored.rev)])

    await kernel.transact(what, tidy)
    kernel.recent.forget(transcript)
    return list(dict.fromkeys(session for session, _ in head.gone))


async def _unlink(kernel: Kernel, agno_session_id: str, transcript: Ref) -> None:
    """Remove a link, unless the session has entries in the transcript again."""
    link, stored = await kernel.get(link_ref(agno_session_id, transcript.id)), await kernel.get(transcript)
    if link is None or (stored is not None and agno_session_id in _Head.of(stored).links):
        return
    with suppress(Conflict):  # it just has
        await kernel.commit([Delete(link.ref, link.rev)])


async def remove_of_session(kernel: Kernel, agno_session_id: str, until: int | None) -> None:
    """Remove what an Agno session has added to any transcript by a time (microseconds since the epoch; None: ever). The
    link of each goes last, so that a repetition finds what is left. 1 request where there is nothing."""
    for link in await kernel.span(Span(TRANSCRIPT_LINKS.name, "session", (agno_session_id,), high=until)):
        transcript = Ref(TRANSCRIPTS.name, str(link.fields["transcript"]), str(link.fields["conversation"]))
        await _remove(kernel, transcript, agno_session_id, until)
        await _unlink(kernel, agno_session_id, transcript)
