"""Bodies that are too large for one record of the store: cut into chunks, and put together again.

The record itself, the *head*, keeps its fields; in place of its body it has a *manifest*, which names a *generation* of
chunks and tells their number, size and digest. Chunks are written before the head and never changed; the head decides,
in the driver's own commit, under its own expectation. Invariants:

- a reader sees a whole body or none: what a manifest names was there before it; where a chunk is not there any more,
  the head is read again, and says something else by then;
- a *reminder* is written before the first chunk of a generation and removed after the last. So whatever a process that
  ended between two steps has left, and what came loose without our noticing (an expiry by the store, a deletion of
  what nobody had read), is found by looking at the reminders that are due (`collect`);
- a generation is removed only when the head is known not to have it: it was replaced, deleted, or refused by a commit,
  or so long has passed since the reminder that whoever wrote it has given up (`LEASE`, `GRACE`).

What fits into one record costs nothing here: no request, and no look at more than the lengths of its texts.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from agno_docstores import keys
from agno_docstores.codec import LONG, Json
from agno_docstores.errors import (
    Conflict,
    CorruptRecordError,
    DocstoreError,
    PayloadTooLargeError,
    StoreUnavailableError,
    UnsupportedTopologyError,
)
from agno_docstores.port import (
    MANIFEST,
    Condition,
    Delete,
    Failed,
    Fields,
    Index,
    Kind,
    Put,
    Range,
    Ref,
    Rev,
    Span,
    Stored,
    Write,
)
from agno_docstores.schema import CHUNKS, REMINDERS, reminder_ref

if TYPE_CHECKING:
    from agno_docstores.kernel import Kernel

log = logging.getLogger("agno_docstores")

MAX_VALUE_BYTES = 64_000_000  # of one body's JSON text, unless told otherwise
SLICE_BYTES = 1_000_000  # of one chunk, at most, where the store takes more: they are handled one batch at a time
BATCH_BYTES = 1_000_000  # of chunks that are written, or read, at once
LEASE = 3_600  # seconds after which a writer who has not stored the head gives up
GRACE = 2 * LEASE  # seconds after which nobody can be about to store the head; clocks may differ by the rest
CHECK = 30 * 86_400  # seconds from one look at a head that has its chunks to the next
LOOKS = 5  # at a head whose chunks are not there, where reads may be eventually consistent ones
RESTARTS = 40  # of a read, against writers who replace the body faster than it is read

ABOUT = "chunks"  # of the reminders


@dataclass(frozen=True, slots=True)
class Manifest:
    """Where a body is: `chunks` records of `owner` under the name of the generation. `size`: bytes of its JSON text,
    whose `digest` (SHA-256) tells whether it is whole. `parts`: the characters of each part, in order."""

    generation: str
    owner: str
    chunks: int
    size: int
    digest: str
    parts: Mapping[str, int]

    def refs(self) -> list[Ref]:
        return [self.ref(number) for number in range(self.chunks)]

    def ref(self, number: int) -> Ref:
        return Ref(CHUNKS.name, f"{self.generation}.{number:06d}", self.owner)

    def same_body(self, other: Manifest) -> bool:
        """Whether both are of one body, that of a record of one owner."""
        parts, others = list(self.parts.items()), list(other.parts.items())
        return (self.owner, self.digest, parts) == (other.owner, other.digest, others)


@dataclass(frozen=True, slots=True)
class Cut:
    """A put whose body is to be in chunks: its text, and the bounds of the slices."""

    put: Put
    text: str
    bounds: list[int]
    manifest: Manifest

    @property
    def head(self) -> Put:
        return replace(self.put, body={MANIFEST: Json.of(asdict(self.manifest))})

    def batches(self) -> Iterator[list[Put]]:
        """The chunks, made as they are written: the text is not there twice."""
        batch: list[Put] = []
        taken = 0
        for number, (start, end) in enumerate(pairwise(self.bounds)):
            piece = self.text[start:end]
            size = Json(piece).size
            if batch and taken + size > BATCH_BYTES:
                yield batch
                batch, taken = [], 0
            fields = {"owner": self.manifest.owner, "place": f"{self.manifest.generation}.{number:06d}.{size}"}
            batch.append(Put(self.manifest.ref(number), fields, {"slice": Json.of(piece)}))
            taken += size
        yield batch


@dataclass(frozen=True, slots=True)
class Collected:
    """What a look at a reminder has removed: chunks, and the bytes of JSON text in them."""

    chunks: int = 0
    bytes: int = 0


# --- Cutting ----------------------------------------------------------------------------------------------------------


def check_sizes(kernel: Kernel, writes: Iterable[Write]) -> None:
    """Raises `PayloadTooLargeError` for the first body that is larger than `max_value_bytes`."""
    for write in writes:
        if isinstance(write, Put) and sum(4 * len(part.text) for part in write.body.values()) > kernel.max_value_bytes:
            size = sum(part.size for part in write.body.values())
            if size > kernel.max_value_bytes:
                raise PayloadTooLargeError(write.ref.kind, write.ref.id, size, kernel.max_value_bytes)


def cut(kernel: Kernel, writes: Sequence[Write]) -> dict[int, Cut]:
    """The puts that one record cannot hold, by their number among the writes."""
    return {
        number: _cut(kernel, write)
        for number, write in enumerate(writes)
        if isinstance(write, Put) and _is_large(kernel, write)
    }


def _are_long(writes: Iterable[Write]) -> bool:
    return sum(len(part.text) for w in writes if isinstance(w, Put) for part in w.body.values()) >= LONG


def _is_large(kernel: Kernel, put: Put) -> bool:
    limit = kernel.driver.item_bytes
    if limit is None or not put.body or put.ref.kind in (CHUNKS.name, REMINDERS.name):
        return False
    # What it can take at the most, told from lengths alone: a character is four bytes at the most.
    length = 0
    for name, part in put.body.items():
        length += len(name) + len(part.text) + 2
    for value in put.fields.values():
        if isinstance(value, str):
            length += len(value)
        elif isinstance(value, tuple):
            length += sum(map(len, value))
    return 4 * length > limit and kernel.driver.stored_bytes(put) > limit


def _cut(kernel: Kernel, put: Put) -> Cut:
    kind = kernel.driver.kinds[put.ref.kind]
    above = put.fields.get(kind.parent) if kind.parent is not None else put.ref.id
    owner = _owner(kind, str(above))
    generation = secrets.token_urlsafe(12)
    texts = [part.text for part in put.body.values()]
    text = texts[0] if len(texts) == 1 else "".join(texts)
    bounds = [0]
    digest = hashlib.sha256()
    size = 0
    room = _room(kernel, generation, owner)
    while bounds[-1] < len(text):
        start, end = bounds[-1], min(len(text), bounds[-1] + room)
        while (taken := _bytes_as_json(text[start:end])) > room:
            end = start + max(1, (end - start) * room // taken)
        raw = text[start:end].encode()
        digest.update(raw)
        size += len(raw)
        bounds.append(end)
    parts = {name: len(part.text) for name, part in put.body.items()}
    manifest = Manifest(generation, owner, len(bounds) - 1, size, digest.hexdigest(), parts)
    before = put.expect.manifest if isinstance(put.expect, Rev) else None
    # A body that stays as it is keeps its chunks: the commit's expectation says that the head still has them.
    return Cut(put, text, bounds, before if before is not None and before.same_body(manifest) else manifest)


def _owner(kind: Kind, above: str) -> str:
    return keys.encode((kind.name, above))


def _room(kernel: Kernel, generation: str, owner: str) -> int:
    """Bytes of text that one chunk can hold, whatever is in it: each is counted as its JSON text, uncompressed."""
    empty = Put(
        Ref(CHUNKS.name, f"{generation}.000000", owner),
        {"owner": owner, "place": f"{generation}.000000.{SLICE_BYTES}"},
        {"slice": Json.of("")},
    )
    limit = min(kernel.driver.item_bytes or SLICE_BYTES, SLICE_BYTES)
    return max(limit - kernel.driver.stored_bytes(empty), 64)


def _bytes_as_json(piece: str) -> int:
    """Of a slice as a JSON string, without its quotes. (JSON text has no bare control characters.)"""
    return Json(piece).size + piece.count('"') + piece.count("\\")


# --- Writing ----------------------------------------------------------------------------------------------------------


async def commit(kernel: Kernel, writes: Sequence[Write]) -> list[Rev | None]:
    """A commit of the kernel's, with the bodies that are too large for one record in chunks. What has none, and
    replaces none, is passed on as it is."""
    check_sizes(kernel, writes)
    cuts = await kernel.io.work(lambda: _are_long(writes), cut, kernel, writes)
    loose = [
        write.expect.manifest
        for write in writes
        if isinstance(write, Put | Delete) and isinstance(write.expect, Rev) and write.expect.manifest is not None
    ]
    if not cuts and not loose:
        return await kernel.commit_records(writes)
    kept = {one.generation for one in loose}
    new = [one for one in cuts.values() if one.manifest.generation not in kept]
    await _store(kernel, new)
    heads = [cuts[number].head if number in cuts else write for number, write in enumerate(writes)]
    try:
        revs = await kernel.commit_records(heads)
    except (Conflict, PayloadTooLargeError, UnsupportedTopologyError):
        # The commit is known not to have been applied. Of any other failure that is not known: the reminder tells.
        await _remove(kernel, [one.manifest for one in new])
        raise
    used = {one.manifest.generation for one in cuts.values()}
    revs = [
        replace(rev, manifest=cuts[number].manifest) if rev is not None and number in cuts else rev
        for number, rev in enumerate(revs)
    ]
    await _remove(kernel, [one for one in loose if one.generation not in used])
    if not kernel.driver.atomic:
        await _still_there(kernel, writes, revs)
    return revs


async def write_many(kernel: Kernel, writes: Sequence[Write]) -> list[Failed]:
    """The same for unordered writes, each by itself. What a put replaces is not known here: the reminders tell."""
    check_sizes(kernel, writes)
    cuts = await kernel.io.work(lambda: _are_long(writes), cut, kernel, writes)
    if not cuts:
        return await kernel.write_records(writes)
    await _store(kernel, list(cuts.values()))
    heads = [cuts[number].head if number in cuts else write for number, write in enumerate(writes)]
    given = {id(head): write for head, write in zip(heads, writes, strict=True)}
    return [Failed(given[id(failure.write)], failure.error) for failure in await kernel.write_records(heads)]


async def _store(kernel: Kernel, cuts: Sequence[Cut]) -> None:
    """Write the reminders, then the chunks. Whoever cannot, in time, raises: the head must not follow."""
    if not cuts:
        return
    started = kernel.io.now()
    _all_stored(await kernel.write_records([_reminder(one, int(started) + GRACE) for one in cuts]))
    for one in cuts:
        batches = one.batches()
        while batch := await kernel.io.work(True, next, batches, None):
            _all_stored(await kernel.write_records(batch))
    if kernel.io.now() - started > LEASE:
        took = f"the chunks of {cuts[0].put.ref.kind} {cuts[0].put.ref.id!r} took more than {LEASE} s"
        raise StoreUnavailableError("write_many", kernel.driver.address(), took)


def _reminder(one: Cut, due_at: int) -> Put:
    ref, manifest = one.put.ref, one.manifest
    what = {"kind": ref.kind, "id": ref.id, "parent": ref.parent, "order": ref.order, "owner": manifest.owner}
    fields: Fields = {"about": ABOUT, "target": manifest.generation, "due_at": due_at}
    return Put(reminder_ref(ABOUT, manifest.generation), fields, {"what": Json.of(what)})


def _all_stored(failed: Sequence[Failed]) -> None:
    if failed:
        raise failed[0].error


async def _remove(kernel: Kernel, manifests: Sequence[Manifest]) -> None:
    """Remove generations that no head has, each with its reminder behind it. What this meets does not undo what was
    done before: it is logged, and the reminder stays."""
    if not manifests:
        return
    try:
        _all_stored(await kernel.write_records([Delete(ref) for one in manifests for ref in one.refs()]))
        _all_stored(await kernel.write_records([Delete(reminder_ref(ABOUT, one.generation)) for one in manifests]))
    except DocstoreError as error:
        log.warning("chunks that nothing refers to any more are left to the next sweep: %s", error)


async def _still_there(kernel: Kernel, writes: Sequence[Write], revs: Sequence[Rev | None]) -> None:
    """Where a head and its parent are no one commit: that nobody has removed the children of that parent, and with them
    these chunks, before the head came. Then it goes again, and the caller has lost a race. 1 request for each."""
    for write, rev in zip(writes, revs, strict=True):
        if rev is None or rev.manifest is None or kernel.driver.kinds[write.ref.kind].parent is None:
            continue
        if len(await _chunks_of(kernel, rev.manifest.owner, rev.manifest.generation)) < rev.manifest.chunks:
            with suppress(Conflict):
                await kernel.commit_records([Delete(write.ref, rev)])
            await _remove(kernel, [rev.manifest])
            raise Conflict([write.ref])


async def remove(kernel: Kernel, records: Sequence[Stored]) -> list[Failed]:
    """Delete records as read, under no expectation, and the chunks that they then had."""
    failed = await kernel.write_records([Delete(record.ref) for record in records])
    left = {failure.write.ref for failure in failed}
    gone = [record.rev.manifest for record in records if record.rev.manifest is not None and record.ref not in left]
    await _remove(kernel, gone)
    return failed


async def purge(kernel: Kernel, parent: str, kind: Kind) -> bool:
    """Remove all chunks of the children of a parent, whose heads are gone; whether there were any. Raises where that
    fails: repeating it goes on. 1 read, and the deletions in batches."""
    headers = await _chunks_of(kernel, _owner(kind, parent))
    if not headers:
        return False
    _all_stored(await kernel.write_records([Delete(header.ref) for header in headers]))
    generations = dict.fromkeys(header.ref.id.partition(".")[0] for header in headers)
    _all_stored(await kernel.write_records([Delete(reminder_ref(ABOUT, one)) for one in generations]))
    return True


async def large_children(
    kernel: Kernel, parent: str, kind: Kind, index: Index, where: tuple[Condition, ...]
) -> list[Stored]:
    """Those of a parent's children that have a body in chunks, told by their field `size`. 1 request, if the store has
    such a limit that a body may be, and those of what is found."""
    limit = kernel.driver.item_bytes
    if limit is None or "size" not in kind.fields:
        return []
    # A body takes no more, stored, than its text does, but for a few bytes.
    long = Range("size", limit // 2, None)
    headers = await kernel.span(Span(kind.name, index.name, (parent,), body=False, where=(*where, long)))
    found = await kernel.read_records([header.ref for header in headers])
    return [noted(record) for record in found if record is not None]


async def remove_of(kernel: Kernel, records: Sequence[Stored]) -> None:
    """Remove the chunks of records that are gone, as they were read."""
    await _remove(kernel, [record.rev.manifest for record in records if record.rev.manifest is not None])


async def _chunks_of(kernel: Kernel, owner: str, generation: str | None = None) -> list[Stored]:
    """The headers of an owner's chunks, or of one generation of them."""
    low, high = (None, None) if generation is None else (f"{generation}.", f"{generation}/")
    return await kernel.span(Span(CHUNKS.name, "places", (owner,), low=low, high=high, body=False))


# --- Reading ----------------------------------------------------------------------------------------------------------


def noted(record: Stored) -> Stored:
    """A record as read, its manifest noted in its revision; without a body where that is elsewhere."""
    if not record.body or MANIFEST not in record.body:
        return record
    try:
        manifest = Manifest(**record.body[MANIFEST].value())
    except TypeError as error:
        raise CorruptRecordError(record.ref.kind, record.ref.id, f"its manifest is none ({error})") from error
    return replace(record, body=None, rev=replace(record.rev, manifest=manifest))


async def whole(kernel: Kernel, record: Stored | None) -> Stored | None:
    """A record as read, with its body; as it is now, where it has changed meanwhile. None: it is gone.

    1 request for each megabyte of a body that is in chunks, else none. Raises `CorruptRecordError` for a body that is
    not all there.
    """
    looks = 0
    for _ in range(RESTARTS):
        if record is None:
            return None
        record = noted(record)
        manifest: Manifest | None = record.rev.manifest
        if manifest is None or record.body is not None:
            return record
        body = await _joined(kernel, manifest)
        if body is not None:
            return replace(record, body=body)
        ref = record.ref
        (record,) = await kernel.read_records([ref])
        again = noted(record).rev.manifest if record is not None else None
        if again is not None and again.generation == manifest.generation:
            looks += 1
            if looks == LOOKS:
                raise CorruptRecordError(ref.kind, ref.id, "its body is not all there")
            await kernel.back_off(looks)
    raise StoreUnavailableError("get", kernel.driver.address(), "a record keeps changing while it is read")


async def _joined(kernel: Kernel, manifest: Manifest) -> dict[str, Json] | None:
    """The body that a manifest names; None if it is not all there."""
    refs = manifest.refs()
    step = max(1, BATCH_BYTES * manifest.chunks // max(manifest.size, 1))
    digest = hashlib.sha256()
    pieces: list[str] = []
    for start in range(0, len(refs), step):
        for chunk in await kernel.read_records(refs[start : start + step]):
            piece = chunk.body["slice"].value() if chunk is not None and chunk.body else None
            if not isinstance(piece, str):
                return None
            digest.update(piece.encode())
            pieces.append(piece)
    if digest.hexdigest() != manifest.digest or sum(map(len, pieces)) != sum(manifest.parts.values()):
        return None
    text = "".join(pieces)
    if len(manifest.parts) == 1:
        return {name: Json(text) for name in manifest.parts}
    del pieces
    body: dict[str, Json] = {}
    start = 0
    for name, length in manifest.parts.items():
        body[name] = Json(text[start : start + length])
        start += length
    return body


# --- Sweeping ---------------------------------------------------------------------------------------------------------


async def collect(kernel: Kernel, reminder: Stored) -> Collected:
    """Look at a reminder about chunks that is due: if the head has them, it is set to a later time, else the chunks go,
    and the reminder behind them. What was removed.

    For any number of processes at once, and repeated wherever one ended. 2 requests, and the deletions in batches.
    """
    known = reminder if reminder.body else await kernel.get(reminder.ref)
    if known is None:
        return Collected()
    what = (known.body or {})["what"].value()
    generation = str(known.fields["target"])
    ref = Ref(what["kind"], what["id"], what["parent"], what["order"])
    (head,) = await kernel.read_records([ref])
    has = noted(head).rev.manifest if head is not None else None
    if head is not None and has is not None and has.generation == generation:
        due_at = kernel.now() + CHECK
        if head.expires_at is not None:
            # It is for whoever removes what has expired to remove it, and the chunks with it.
            due_at = min(due_at, max(head.expires_at, kernel.now()) + GRACE)
        # Where another process has set or removed it meanwhile, there is nothing left to do.
        with suppress(Conflict):
            later: Fields = {**known.fields, "due_at": due_at}
            await kernel.commit_records([Put(known.ref, later, known.body or {}, known.rev)])
        return Collected()
    chunks = await _chunks_of(kernel, what["owner"], generation)
    _all_stored(await kernel.write_records([Delete(chunk.ref) for chunk in chunks]))
    _all_stored(await kernel.write_records([Delete(known.ref)]))
    return Collected(len(chunks), sum(int(str(chunk.fields["place"]).rpartition(".")[2]) for chunk in chunks))
