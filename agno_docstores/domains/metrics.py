"""Metrics: what `BaseDb` says of them (contract 1.5), at the cost of what changed.

A row is one UTC day and one owner; a session, with all its runs, is counted on the day of its `created_at`. Every
write that changes what the metrics count marks the session's history as `uncounted`; counting looks at marked sessions
only, through the index of the mark, and takes the mark away together with a look at whether anything changed meanwhile.
What a session contributes is kept in its tally, and rows change by differences (`agno_docstores.tallies`), so that runs
of sessions of earlier days are counted, no session under two owners, and nothing twice by two processes at once.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from agno_docstores.codec import NULL
from agno_docstores.domains.listing import equal
from agno_docstores.errors import Conflict, CorruptRecordError, DocstoreError
from agno_docstores.history import Histories, history_ref, live, session_ref
from agno_docstores.kernel import Kernel, Query
from agno_docstores.port import Condition, Eq, Put, Range, Span, Stored, Touch, Write, as_int
from agno_docstores.schema import HISTORIES, METRICS
from agno_docstores.tallies import (
    COUNTS,
    TOKENS,
    Bucket,
    Contribution,
    Figures,
    Tally,
    apply,
    begin,
    close_row,
    settle,
    tally_ref,
    today,
)

log = logging.getLogger("agno_docstores")

Row = dict[str, Any]

REFRESH = 60  # seconds that `get_metrics` takes what was counted for current
BATCH = 50  # sessions looked at together


class Uncountable(ValueError):
    """A stored session of which it cannot be told what it contributes."""


@dataclass(frozen=True, slots=True)
class Look:
    """A marked session as it was looked at."""

    session_id: str
    session: Stored
    head: Stored
    tally: Tally


class Metrics:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories
        self._refreshed_at = float("-inf")

    async def get_metrics(
        self,
        starting_date: date | None = None,
        ending_date: date | None = None,
        user_id: str | None = None,
    ) -> tuple[list[Row], int | None]:
        """The rows between two days (inclusive), by day, and when any row of that owner was last updated (epoch s).

        `user_id`: that owner's rows; "" those of unowned sessions; None all. Of a row, `date` is a `datetime.date`,
        `user_id` None where nobody owns it. Counts first (`calculate_metrics`), at most once a minute and handle; if
        that fails, a warning says so and what was counted before is returned. Else 1 request for each megabyte of
        rows, and 1. Other owners' rows are not read. Eventually consistent on DynamoDB. Raises on a failed read.
        """
        if self.kernel.io.now() - self._refreshed_at >= REFRESH:
            yesterday = date.fromisoformat(today(self.kernel.now())) - timedelta(days=1)
            try:
                await self._refresh((Range("date", None, yesterday.isoformat()),))
            except DocstoreError as error:
                log.warning("metrics could not be refreshed before they were read: %s", error)
        owner = tuple(equal(user_id=user_id))
        days: tuple[Condition, ...] = ()
        if starting_date is not None or ending_date is not None:
            low, high = (None if day is None else day.isoformat()[:10] for day in (starting_date, ending_date))
            days = (Range("date", low, high),)
        rows = await self.kernel.page(Query(METRICS, (*owner, *days), "date"), body=False)
        if not rows:
            return [], None
        latest = await self.kernel.page(Query(METRICS, owner, "updated_at", True), limit=1, body=False)
        return [_to_row(row, row.fields["user_id"] or None) for row in rows], as_int(latest[0].fields.get("updated_at"))

    async def calculate_metrics(self) -> list[Row] | None:
        """Count what changed since the last time, in whichever process that was.

        Returns the rows that changed and those of today, by day; None if there is none. A session that cannot be
        counted (its stored data are not what Agno stores) is reported in the log, and stays as it was counted before.
        Requests: 2 (5 on DynamoDB) where nothing changed; some 6 for each session that did, and 3 for each of its rows.
        Raises on a failed read or write; what was counted stays counted, and the next call goes on.
        """
        rows = await self._refresh(())
        in_order = sorted(rows, key=lambda row: (str(row.fields["date"]), str(row.fields["user_id"])))
        return [_to_row(row, row.fields["user_id"]) for row in in_order] or None

    async def _refresh(self, which: tuple[Condition, ...]) -> list[Stored]:
        """Count what changed, and complete the days that are over: the rows that changed, and the open ones under these
        conditions, which have to include those of earlier days."""
        self._refreshed_at = self.kernel.io.now()
        now = self.kernel.now()
        marked = await self.kernel.span(Span(HISTORIES.name, "uncounted", (True,), body=False))
        open_rows = await self.kernel.page(Query(METRICS, (Eq("open", True), *which), "date"), body=False)
        rows = {row.ref: row for row in open_rows}
        ids = [head.ref.id for head in marked]
        for start in range(0, len(ids), BATCH):
            for row in await self._count(ids[start : start + BATCH], now):
                rows[row.ref] = row
        for row in [row for row in rows.values() if row.fields["open"] and str(row.fields["date"]) < today(now)]:
            rows[row.ref] = await close_row(self.kernel, row, now)
        return list(rows.values())

    async def _count(self, session_ids: list[str], now: int) -> list[Stored]:
        """Count sessions; the rows that changed."""
        looks = await self._look(session_ids)
        interrupted = [look for look in looks if look.tally.token is not None]
        rows: list[Stored] = []
        if interrupted:
            # Counts that somebody began and did not finish. Finishing them leaves the sessions marked: look again.
            rows = await self._apply([(look.session_id, look.tally) for look in interrupted], now)
            await self.kernel.io.gather(*(settle(self.kernel, look.session_id, look.tally) for look in interrupted))
            again = await self._look([look.session_id for look in interrupted])
            looks = [look for look in (*looks, *again) if look.tally.token is None]
        begun = [started for started in await self.kernel.io.gather(*map(self._begin, looks)) if started is not None]
        rows += await self._apply([(look.session_id, look.tally) for look in begun], now)
        await self.kernel.io.gather(*map(self._finish, begun))
        return rows

    async def _apply(self, changes: list[tuple[str, Tally]], now: int) -> list[Stored]:
        concerned: dict[Bucket, list[str]] = {}
        for session_id, tally in changes:
            for bucket in tally.buckets:
                concerned.setdefault(bucket, []).append(session_id)
        rows = await self.kernel.io.gather(*(apply(self.kernel, *change, now) for change in concerned.items()))
        return [row for row in rows if row is not None]

    async def _look(self, session_ids: list[str]) -> list[Look]:
        """What there is of each session, if it is still there and marked. 1 request (DynamoDB: 1 for each 33)."""
        refs = [ref(id) for id in session_ids for ref in (session_ref, history_ref, tally_ref)]
        try:
            found = await self.kernel.get_many(refs)
        except CorruptRecordError as error:
            if len(session_ids) == 1:
                log.error("session %r is left out of the metrics: %s", session_ids[0], error)
                return []
            # It is one of them; a look at each tells which. The others are not to go uncounted for it.
            return [look for id in session_ids for look in await self._look([id])]
        looks = []
        for number, session_id in enumerate(session_ids):
            session, head, tally = found[3 * number : 3 * number + 3]
            if session is not None and head is not None and head.fields.get("uncounted"):
                looks.append(Look(session_id, session, head, Tally.of(tally)))
        return looks

    async def _begin(self, look: Look) -> Look | None:
        """The same with a change pending; None if there is nothing to change, or the session changed meanwhile."""
        try:
            contribution = await self._contribution(look)
        except (Uncountable, CorruptRecordError) as error:
            log.error("session %r is left out of the metrics: %s", look.session_id, error)
            await self._unmark(look, [])
            return None
        if contribution.counts_as(look.tally.counted):
            if contribution.revision >= 0:
                await self._unmark(look, [look.tally.put(look.session_id, contribution)])
            return None
        # The history is written as it is: so this fails if the session went, or one of its runs came, meanwhile.
        same = Put(look.head.ref, look.head.fields, {}, look.head.rev, look.head.expires_at)
        begun = await begin(self.kernel, look.session_id, look.tally, contribution, [same])
        if begun is None:
            return None
        tally, (rev, *_) = begun
        assert rev is not None
        return replace(look, tally=tally, head=replace(look.head, rev=rev))

    async def _finish(self, look: Look) -> None:
        """Settle a tally whose rows are written, and take the mark away unless something changed meanwhile."""
        pending = look.tally.pending
        assert pending is not None
        settled = look.tally.put(look.session_id, pending)
        if pending.revision < 0 or not await self._unmark(look, [settled]):
            await settle(self.kernel, look.session_id, look.tally)

    async def _unmark(self, look: Look, also: list[Put]) -> bool:
        """Take the mark away, if session and history are as they were looked at. The session's record is touched: who
        saves it on the strength of a remembered mark fails, and marks it again."""
        session, head = look.session, look.head
        unmarked = {**head.fields, "uncounted": None}
        writes: list[Write] = [
            Put(head.ref, unmarked, {}, head.rev, head.expires_at),
            Touch(session.ref, session.expires_at, session.rev),
            *also,
        ]
        try:
            revs = await self.kernel.commit(writes)
        except Conflict:
            return False
        assert revs[0] is not None and revs[1] is not None
        self.kernel.recent.note(head.ref, replace(head, rev=revs[0], fields=unmarked))
        self.kernel.recent.note(session.ref, replace(session, rev=revs[1]))
        return True

    async def _contribution(self, look: Look) -> Contribution:
        """What a session contributes now. Reads the runs that changed since it was counted; the headers of all, where
        one that was counted has changed or gone."""
        bucket, figures = _of_session(look.session)
        head, before = look.head, look.tally.counted
        incarnation, revision = str(head.fields["incarnation"]), as_int(head.fields.get("revision"))
        runs_count = f"{look.session.fields['session_type']}_runs_count"
        runs: list[Stored] | None = None
        settled = True
        if before is not None and before.incarnation == incarnation and 0 <= before.revision <= revision:
            runs, settled = await self.histories.since(look.session_id, head, before.revision)
            if any(as_int(run.fields.get("run_index")) < before.next_index for run in runs):
                runs = None
            else:
                figures.counts[runs_count] = sum(before.figures.counts[name] for name in COUNTS if "runs" in name)
                figures.models.update(before.figures.models)
        if runs is None:
            runs, settled = await self.histories.headers(look.session_id, head)
        for run in filter(live, runs):
            figures.counts[runs_count] += 1
            model, provider = run.fields.get("model"), run.fields.get("model_provider")
            if model:
                figures.models[str(model), str(provider or "")] += 1
        return Contribution(
            bucket, figures, incarnation, revision if settled else -1, as_int(head.fields.get("next_index"))
        )


def _of_session(session: Stored) -> tuple[Bucket, Figures]:
    """The row that counts a session, and what it counts of it apart from its runs. Raises `Uncountable`."""
    created_at, kind = session.fields.get("created_at"), session.fields.get("session_type")
    try:
        day = datetime.fromtimestamp(created_at, UTC).date()  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, OSError):
        raise Uncountable(f"created_at is {created_at!r}") from None
    if f"{kind}_sessions_count" not in COUNTS:
        raise Uncountable(f"session_type is {kind!r}")
    data = (session.body or {}).get("session_data", NULL).value() or {}
    metrics = data.get("session_metrics") or {} if isinstance(data, dict) else None
    if not isinstance(metrics, dict):
        raise Uncountable("session_data holds no metrics as Agno stores them")
    tokens: Counter[str] = Counter()
    for name in TOKENS:
        number = metrics.get(name) or 0
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise Uncountable(f"session_metrics.{name} is no number")
        tokens[name] = number  # type: ignore[assignment]
    bucket = Bucket(day.isoformat(), str(session.fields.get("user_id") or ""))
    return bucket, Figures(Counter({f"{kind}_sessions_count": 1}), tokens)


def _to_row(row: Stored, user_id: Any) -> Row:
    """The row of `agno_metrics` that a record stands for. Fresh objects each time."""
    fields = row.fields
    figures = Figures.of(json.loads(str(fields["figures"])))
    return {
        "id": fields["metric_id"],
        "date": date.fromisoformat(str(fields["date"])),
        "aggregation_period": "daily",
        "user_id": user_id,
        "completed": not fields["open"],
        "users_count": 1 if fields["user_id"] and figures else 0,
        **{name: figures.counts[name] for name in COUNTS},
        "token_metrics": {name: figures.tokens[name] for name in TOKENS},
        "model_metrics": [
            {"model_id": model, "model_provider": provider, "count": count}
            for (model, provider), count in figures.models.items()
        ],
        "created_at": fields["created_at"],
        "updated_at": fields["updated_at"],
    }
