"""What each session contributes to the metrics, counted exactly once whoever counts, and wherever he is interrupted.

A *contribution* is what one session adds to the row of its day and owner: one session, its runs, tokens, models. The
session's *tally*, a record beside it, holds the contribution that a row counts. A change of it takes single-document
steps, so that it works on stores whose commits hold no more:

1. the tally notes the new contribution as pending, under a token, provided that the session is still there;
2. each row concerned adds the difference between pending and counted, and notes the token as applied, unless it has;
3. the tally says that pending is counted.

Whoever finds a pending contribution may finish it: step 2 is done once for each token. A row forgets a token when it is
next written, if the tally read *after the row* no longer has it pending. That order is what makes forgetting safe: as
long as a token is pending in a tally that was read after the row, nobody can have removed it from that row, so its
absence means that it was not applied; and a row that has changed meanwhile fails the write under its `Rev`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from agno_docstores import keys
from agno_docstores.codec import NULL, Json
from agno_docstores.errors import Conflict
from agno_docstores.kernel import Kernel, new_token
from agno_docstores.port import Delete, Expect, FieldValue, Put, Ref, Rev, Stored, Write
from agno_docstores.schema import METRICS, TALLIES

COUNTS = tuple(f"{kind}_{what}_count" for what in ("sessions", "runs") for kind in ("agent", "team", "workflow"))
TOKENS = (
    "input_tokens",
    "output_tokens",
    "total_tokens",
    "audio_total_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)
Model = tuple[str, str]  # model and provider


@dataclass(frozen=True, slots=True)
class Bucket:
    """A row of the metrics: a day, ISO 8601 in UTC, and an owner ("": nobody)."""

    date: str
    user_id: str

    @property
    def ref(self) -> Ref:
        return Ref(METRICS.name, keys.encode((self.date, self.user_id)))


@dataclass(slots=True)
class Figures:
    """Sums: sessions and runs by type, tokens, runs by model. They can be added and subtracted."""

    counts: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    models: Counter[Model] = field(default_factory=Counter)

    def add(self, other: Figures, times: int) -> None:
        for own, more in ((self.counts, other.counts), (self.tokens, other.tokens), (self.models, other.models)):
            for name, number in more.items():
                own[name] += times * number  # type: ignore[index]

    def __bool__(self) -> bool:
        return any(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "counts": {name: number for name, number in self.counts.items() if number},
            "tokens": {name: number for name, number in self.tokens.items() if number},
            "models": [[*model, number] for model, number in self.models.items() if number],
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Figures:
        models = Counter({(model, provider): number for model, provider, number in value.get("models", ())})
        return cls(Counter(value.get("counts", {})), Counter(value.get("tokens", {})), models)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What a session adds to its row, and up to where its history was looked at: the incarnation, revision and next
    index of the history then. `revision` -1: the runs have to be looked at afresh next time."""

    bucket: Bucket
    figures: Figures
    incarnation: str
    revision: int
    next_index: int

    def counts_as(self, other: Contribution | None) -> bool:
        return other is not None and (self.bucket, self.figures) == (other.bucket, other.figures)

    def to_json(self) -> dict[str, Any]:
        return {
            **self.figures.to_json(),
            "date": self.bucket.date,
            "user_id": self.bucket.user_id,
            "incarnation": self.incarnation,
            "revision": self.revision,
            "next_index": self.next_index,
        }

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Contribution:
        bucket = Bucket(value["date"], value["user_id"])
        return cls(bucket, Figures.of(value), value["incarnation"], value["revision"], value["next_index"])


@dataclass(frozen=True, slots=True)
class Tally:
    """A tally as read. `pending`: what a change under `token` leads to; None of a session that goes."""

    stored: Stored | None
    counted: Contribution | None = None
    pending: Contribution | None = None
    token: str | None = None

    @classmethod
    def of(cls, stored: Stored | None) -> Tally:
        body = stored.body or {} if stored is not None else {}
        counted, pending = body.get("counted", NULL).value(), body.get("pending", NULL).value()
        change = pending or {"to": None, "token": None}
        return cls(
            stored,
            Contribution.of(counted) if counted is not None else None,
            Contribution.of(change["to"]) if change["to"] is not None else None,
            change["token"],
        )

    def put(
        self,
        session_id: str,
        counted: Contribution | None,
        pending: Contribution | None = None,
        token: str | None = None,
    ) -> Put:
        """The record of this tally afterwards; `token`: with a change pending."""
        at = pending or counted
        fields: dict[str, FieldValue] = {"date": at.bucket.date, "user_id": at.bucket.user_id} if at is not None else {}
        to = pending.to_json() if pending is not None else None
        body = {
            "counted": Json.of(counted.to_json() if counted is not None else None),
            "pending": Json.of({"to": to, "token": token} if token is not None else None),
        }
        expect = self.stored.rev if self.stored is not None else Expect.ABSENT
        expires_at = self.stored.expires_at if self.stored is not None else None
        return Put(tally_ref(session_id), fields, body, expect, expires_at)

    def difference(self, bucket: Bucket, *, counted: bool) -> Figures:
        """What the pending change adds to a row; `counted`: in which the session is counted as the tally says."""
        figures = Figures()
        if self.pending is not None and self.pending.bucket == bucket:
            figures.add(self.pending.figures, 1)
        if counted and self.counted is not None and self.counted.bucket == bucket:
            figures.add(self.counted.figures, -1)
        return figures

    @property
    def buckets(self) -> set[Bucket]:
        """The rows that the pending change concerns."""
        return {end.bucket for end in (self.pending, self.counted) if end is not None}


def tally_ref(session_id: str) -> Ref:
    return Ref(TALLIES.name, session_id)


async def begin(
    kernel: Kernel, session_id: str, tally: Tally, pending: Contribution | None, also: Sequence[Write]
) -> tuple[Tally, list[Rev | None]] | None:
    """Step 1. `also`: what has to be so of the session, as writes of the same commit (of the same document, where
    commits hold one). The tally with the change pending, and the revisions of what was written besides; None if
    somebody else was faster or the session changed."""
    token = new_token()
    put = tally.put(session_id, tally.counted, pending, token)
    try:
        rev, *others = await kernel.commit([put, *also])
    except Conflict:
        return None
    assert rev is not None
    return Tally(Stored(put.ref, rev, dict(put.fields), dict(put.body)), tally.counted, pending, token), others


async def apply(kernel: Kernel, bucket: Bucket, session_ids: Sequence[str], now: int) -> Stored | None:
    """Step 2, of those of these sessions that have a change pending for this row. The row as it is afterwards; None if
    there is none and nothing to put in it. 2 reads and 1 write, however many sessions."""

    async def attempt(fresh: bool) -> Stored | None:
        row = await kernel.get(bucket.ref)
        applied: dict[str, str] = (row.body or {}).get("applied", NULL).value() or {} if row is not None else {}
        ids = list(dict.fromkeys((*session_ids, *applied)))
        # Read after the row, see the module's beginning.
        tallies = dict(zip(ids, map(Tally.of, await kernel.get_many([tally_ref(id) for id in ids])), strict=True))
        figures = Figures.of(json.loads(str(row.fields["figures"]))) if row is not None else Figures()
        kept = {id: token for id, token in applied.items() if tallies[id].token == token}
        changed = False
        for id in session_ids:
            tally = tallies[id]
            if tally.token is None or bucket not in tally.buckets or kept.get(id) == tally.token:
                continue
            # A row that went with its owner counts nothing: there is nothing to take the session out of.
            figures.add(tally.difference(bucket, counted=row is not None), 1)
            if row is None and not figures:
                continue
            kept[id] = tally.token
            changed = True
        return await _write_row(kernel, bucket, row, figures, kept, now) if changed else row

    return await kernel.transact(f"metrics of {bucket.date}", attempt)


async def close_row(kernel: Kernel, row: Stored, now: int) -> Stored:
    """Mark the row of a day that is over as complete."""
    bucket = Bucket(str(row.fields["date"]), str(row.fields["user_id"]))

    async def attempt(fresh: bool) -> Stored:
        current = await kernel.get(bucket.ref)
        if current is None or not current.fields.get("open"):
            return current or row
        figures = Figures.of(json.loads(str(current.fields["figures"])))
        applied = (current.body or {}).get("applied", NULL).value() or {}
        return await _write_row(kernel, bucket, current, figures, applied, now)

    return await kernel.transact(f"metrics of {bucket.date}", attempt)


async def _write_row(
    kernel: Kernel, bucket: Bucket, row: Stored | None, figures: Figures, applied: Mapping[str, str], now: int
) -> Stored:
    first: dict[str, FieldValue] = {"metric_id": str(uuid4()), "created_at": now}
    before = row.fields if row is not None else first
    fields: dict[str, FieldValue] = {
        "metric_id": before["metric_id"],
        "date": bucket.date,
        "user_id": bucket.user_id,
        "open": True if bucket.date >= today(now) else None,
        "figures": json.dumps(figures.to_json()),
        "created_at": before["created_at"],
        "updated_at": now,
    }
    body = {"applied": Json.of(dict(applied))}
    put = Put(bucket.ref, fields, body, row.rev if row is not None else Expect.ABSENT)
    (rev,) = await kernel.commit([put])
    assert rev is not None
    return Stored(put.ref, rev, fields, body)


async def settle(kernel: Kernel, session_id: str, tally: Tally) -> None:
    """Step 3. If the tally is no longer as it was, somebody else has gone on with it."""
    with suppress(Conflict):
        await kernel.commit([tally.put(session_id, tally.pending)])


async def withdraw(kernel: Kernel, session_id: str) -> None:
    """A session is being deleted: take it out of the metrics while its day is not over; what a completed day counts
    stays counted. Repeating it goes on where it stopped. 1 read, where the session was never counted."""
    while True:
        tally = Tally.of(await kernel.get(tally_ref(session_id)))
        if tally.stored is None:
            return
        now = kernel.now()
        if tally.token is None and tally.counted is not None and tally.counted.bucket.date >= today(now):
            begun = await begin(kernel, session_id, tally, None, ())
            if begun is None:
                continue
            tally, _ = begun
        if tally.token is not None:
            for bucket in tally.buckets:
                await apply(kernel, bucket, [session_id], now)
            if tally.pending is not None:
                # Somebody's count was under way: it stands now, and is withdrawn in the next round.
                await settle(kernel, session_id, tally)
                continue
        assert tally.stored is not None
        with suppress(Conflict):
            await kernel.commit([Delete(tally_ref(session_id), tally.stored.rev)])
            return


def today(now: int) -> str:
    """The day of an epoch second, ISO 8601 in UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()
