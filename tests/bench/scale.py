"""Past one machine: a load of a thousand turns a second, laid on the physical layout of each driver.

`python -m tests.bench.scale` replays the turns of ten million users, of whom few talk much (Zipf), against the memory
driver, and has each commit encoded by the layouts of the DynamoDB and Firestore drivers. It adds up, by the services'
published rules, what each partition of the table and of each index would be billed, and how often each document and the
end of each ascending index would be written, and holds that against the documented limits. Nothing is sent anywhere.

Reads are not in it: those of a warm turn are two small items of the session's own partition.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agno.db.schemas.jobs import QueuedJob
from google.cloud.firestore_v1 import types

from agno_docstores import keys
from agno_docstores.conformance.traces import span, trace
from agno_docstores.facade import Docstore
from agno_docstores.io import SyncIo
from agno_docstores.memory import MemoryDriver, MemoryStore
from agno_docstores.port import Kind, Put, Rev, Stored, Write
from agno_docstores.schema import KINDS
from agno_docstores_dynamo.driver import COMPONENT_SHARDS, LISTING_SHARDS
from agno_docstores_dynamo.layout import CHANGES, Item, Layout, item_bytes
from agno_docstores_firestore import documents
from tests.bench.report import between_markers
from tests.bench.work import run_of, session_of
from tests.meters import KB, prose

USERS, RATE = 10_000_000, 1000  # users; turns a second
SESSIONS_EACH, AGENTS = 5, 1  # of one user; of the service (of several, few do most of the work: Zipf, too)
PARTITION_WRITES = 1000  # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/bp-partition-key-design.html
BEFORE = 3_600_000  # turns that came before those that are replayed: an hour of them
SETTINGS = ((1, 1), (2, 1), (2, 2), (4, 4), (8, 8))  # listing_shards and component_shards; the second are the usual
FIRESTORE_SETTINGS = (((1, 1), False), ((1, 1), True), ((4, 4), True))  # shards, and whether declared fields are exempt
DOCUMENT_WRITES, ASCENDING_WRITES = 1, 500  # https://cloud.google.com/firestore/quotas, .../docs/best-practices

TRACED = ((2, 1), (4, 1), (8, 1), (16, 1))  # `component_shards` does not divide traces
SPANS_EACH = 5  # of a traced turn
QUEUES = ((1, 1), (2, 1), (4, 1), (8, 1))  # nor the queue
JOBS, WAVE = 1_000, 20  # of which so many are in the queue at a time

Change = tuple[Stored | None, Write]  # what was there, and what is written


class Sink(MemoryDriver):
    """The memory driver, which tells of each commit what it changed."""

    watchers: Sequence[Any] = ()

    async def commit(self, writes: Sequence[Write], token: str) -> list[Rev | None]:
        before = [self.data.records.get(self._space(w.ref.kind), {}).get(w.ref.id) for w in writes]
        revs = await super().commit(writes, token)
        for watcher in self.watchers:
            watcher.committed(list(zip(before, writes, strict=True)), token)
        return revs


class SinkDocstore(Docstore):
    def __init__(self, *watchers: Any) -> None:
        def make(kinds: Mapping[str, Kind], tables: Mapping[str, str]) -> Sink:
            sink = Sink(SyncIo(), kinds, tables, MemoryStore())
            sink.watchers = watchers
            return sink

        super().__init__(make, identity=("memory", "sink"))


@dataclass
class DynamoLoad:
    """Write units by index (`table`: the table itself) and partition key, as Layout places and DynamoDB bills them."""

    shards: int = LISTING_SHARDS
    component_shards: int = COMPONENT_SHARDS
    units: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._layouts = {
            name: Layout(kind, "agno", shards=self.shards, compress=True, component_shards=self.component_shards)
            for name, kind in KINDS.items()
        }

    def queries(self, index: str) -> int:
        """That a page of sessions by this index takes."""
        sessions = KINDS["sessions"]
        declared = sessions.index(index)
        assert declared is not None
        return len(self._layouts["sessions"].partitions(declared, ("x",) * len(declared.eq)))

    def committed(self, changes: Sequence[Change], token: str) -> None:
        old: dict[tuple[str, str], Item] = {}
        new: dict[tuple[str, str], Item] = {}
        for before, write in changes:
            layout = self._layouts[write.ref.kind]
            if before is not None:
                was = Put(before.ref, before.fields, before.body or {}, expires_at=before.expires_at)
                old |= self._items(layout, was, before.rev.token)
            if isinstance(write, Put):
                new |= self._items(layout, write, token)
        written = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        times = 2 if len(written) > 1 else 1  # several items are a transaction, which is billed twice
        for key in written:
            self._bill(old.get(key), new.get(key), times)

    @staticmethod
    def _items(layout: Layout, put: Put, token: str) -> dict[tuple[str, str], Item]:
        encoded = layout.encode(put, token)
        items = [encoded.item, *encoded.aliases, *([encoded.claim] if encoded.claim is not None else [])]
        return {(item["pk"]["S"], item["sk"]["S"]): item for item in items}

    def _bill(self, old: Item | None, new: Item | None, times: int) -> None:
        there = [item for item in (old, new) if item is not None]
        partition = there[0]["pk"]["S"]
        self.units["table", partition] += times * max(map(units_of, there))
        for index, pk, sk in INDEXES:
            entries = [entry_of(item, pk, sk) for item in (old, new)]
            if entries[0] == entries[1]:
                continue
            same = None not in entries and all(entries[0][name] == entries[1][name] for name in (pk, sk))  # type: ignore[index]
            if same:
                self.units[index, entries[1][pk]["S"]] += times * max(units_of(entry) for entry in entries if entry)  # type: ignore[index]
                continue
            for entry in filter(None, entries):
                self.units[index, entry[pk]["S"]] += times * units_of(entry)


INDEXES = [(CHANGES, "pk", "lsi"), *((f"gsi{n}", f"gsi{n}pk", f"gsi{n}sk") for n in range(1, 9))]


def entry_of(item: Item | None, pk: str, sk: str) -> Item | None:
    if item is None or pk not in item or sk not in item:
        return None
    projected = {"pk", "sk", pk, sk, "id", "expires_at", *([] if sk == "lsi" else ["head"])}
    return {name: value for name, value in item.items() if name in projected}


def units_of(item: Item) -> int:
    return math.ceil(item_bytes({name: value for name, value in item.items() if name != "lsi"}) / KB)


@dataclass
class FirestoreLoad:
    """Writes by document, and the values of each indexed field, by shard, in the order of writing. `exempt`: the
    declared fields, which the driver does not query, are left out of the indexes."""

    shards: documents.Shards = (1, 1)
    exempt: bool = False
    documents: Counter[tuple[str, str]] = field(default_factory=Counter)
    values: dict[tuple[str, str, str], list[Any]] = field(default_factory=dict)

    def committed(self, changes: Sequence[Change], token: str) -> None:
        for _, write in changes:
            kind = KINDS[write.ref.kind]
            self.documents[kind.name, write.ref.id] += 1
            if not isinstance(write, Put):
                continue
            document = types.Document.pb()(name=f"projects/p/databases/d/documents/{kind.name}/x")
            documents.fill(document, kind, write, token, compress=True, shards=self.shards)
            for name, value in document.fields.items():
                declared = not name.startswith("ix_") and name != documents.EXPIRES_AT
                if name != documents.BODY and not (self.exempt and declared):
                    self._indexed(kind.name, name, value)

    def _indexed(self, kind: str, name: str, value: Any) -> None:
        which = value.WhichOneof("value_type")
        if which == "map_value":  # each of its entries is indexed as a field of its own
            found: list[Any] = [one.string_value for one in value.map_value.fields.values()]
        elif which in ("integer_value", "string_value"):
            found = [getattr(value, which)]
        else:
            return
        for one in found:
            shard = one.removesuffix(documents.position(one)) if name.startswith("ix_") else ""
            self.values.setdefault((kind, name, shard), []).append(one)

    def ascending(self) -> dict[tuple[str, str], int]:
        """The fields whose values grow with time, so that all are written at the end of the index, or of a shard of it,
        which is one place; and how often that was, in the busiest. Grow: what was written early is all below what was
        written late."""
        found: Counter[tuple[str, str]] = Counter()
        for (kind, name, _), values in self.values.items():
            early, late = values[: len(values) * 2 // 5], values[len(values) * 3 // 5 :]
            if early and max(early) < min(late):
                found[kind, name] = max(found[kind, name], len(values))
        return dict(found)


def replay(turns: int, *watchers: Any, agents: int = AGENTS, before: int = BEFORE, seed: int = 1) -> None:
    """So many turns of so many agents, a thousandth of a second after one another; of a service that has had so many
    before, which are not replayed: a session that is likely to have had one of them is there, and saving it then is not
    counted. 0: an empty store, on which two of three turns begin a session."""
    db: Any = SinkDocstore(*watchers)
    sink: Any = db._engine.driver
    chooser, started = random.Random(seed), 1_800_000_000.0

    def zipf(of: int) -> int:
        """A rank from 1 to `of`, the first of which comes as often as the second and third together, nearly."""
        return int(math.exp(chooser.random() * math.log(of + 1)))

    def likely(rank: int) -> float:
        """That a session of the user of this rank has had a turn before."""
        each = math.log(1 + 1 / rank) / math.log(USERS + 1) / SESSIONS_EACH
        return 1 - math.exp(-before * each)

    texts = [prose(5 * KB, number) for number in range(20)]
    draft = run_of("any", 0, KB).to_dict()
    sessions: dict[str, Any] = {}
    for number in range(turns):
        now = started + number / RATE
        db.io.now = lambda now=now: now
        rank = zipf(USERS)
        user = f"user-{rank}"
        # Agno draws the ids of sessions and runs at random.
        id = keys.digest(f"{user}/{chooser.randrange(SESSIONS_EACH)}")
        if id not in sessions:
            agent = f"agent-{zipf(agents)}"
            sessions[id] = session_of(id, number, user_id=user, agent_id=agent, created_at=int(now))
            if chooser.random() < likely(rank):
                then = started - 1 - chooser.random() * before / RATE
                db.io.now, sink.watchers = (lambda then=then: then), ()
                sessions[id].created_at = int(then)
                db.upsert_session(sessions[id], deserialize=False)
                db.io.now, sink.watchers = (lambda now=now: now), watchers
        session = sessions[id]
        session.session_data["session_state"]["turns"] = number
        db.upsert_session(session, deserialize=False)
        run = {**draft, "run_id": str(uuid.UUID(int=chooser.getrandbits(128))), "session_id": id, "user_id": user}
        run |= {"content": texts[number % 20], "created_at": int(now)}
        db.upsert_run(run, id, user)


def replay_traces(turns: int, *watchers: Any, spans: int = SPANS_EACH) -> None:
    """What tracing writes of so many turns of one agent: a trace, then its spans, as Agno's exporter does."""
    db: Any = SinkDocstore(*watchers)
    for number in range(turns):
        id, user = f"{number:032x}", {"user_id": f"user-{number}", "session_id": f"session-{number}"}
        db.upsert_trace(trace(id, number, agent_id="agent-1", run_id=f"run-{number}", **user))
        db.create_spans(
            [span(f"{id}-{n}", id, number + n, attributes={"text": prose(KB, number)}) for n in range(spans)]
        )


def replay_jobs(jobs: int, *watchers: Any) -> None:
    """What the durable queue writes of so many background runs, each a turn of its session: accepted, claimed, one
    heartbeat, its end, its removal."""
    db: Any = SinkDocstore(*watchers)
    for start in range(0, jobs, WAVE):
        ids = [keys.digest(f"job {number}") for number in range(start, min(start + WAVE, jobs))]
        for id in ids:
            payload = {"input": prose(KB, 1), "serialize_session": True}
            db.enqueue_job(QueuedJob(id, "agent", "agent-1", f"session-{id}", user_id=id, payload=payload).to_dict())
        for _ in ids:
            job = db.claim_job("worker")
            db.heartbeat_jobs("worker", [job["id"]])
            db.complete_job(job["id"], "worker", 1, "completed")
        assert db.cleanup_jobs(0) == len(ids)


def queue_markdown(jobs: int, loads: Sequence[DynamoLoad]) -> str:
    told = (
        f"{RATE:,} background runs a second through the durable queue, each a turn of its session; what the queue adds."
    )
    return "\n".join([f"{told} {jobs:,} jobs replayed.", "", *_partitions(jobs, loads), ""])


def markdown(
    turns: int, before: int, loads: Sequence[DynamoLoad], stores: Sequence[FirestoreLoad], traces: str = ""
) -> str:
    """The tables; `traces` is that of tracing."""
    lines = [
        f"{RATE:,} turns a second of {USERS:,} users and {AGENTS} agent; {turns:,} turns replayed, {before:,} before.",
        "",
        *_partitions(turns, loads),
        *(
            f"| queries for a page of {what} | | {' | '.join(str(load.queries(index)) for load in loads)} |"
            for what, index in (
                ("all sessions by `created_at`", "all_created"),
                ("all sessions by `updated_at`", "all_touched"),
                ("one agent's", "component_created"),
            )
        ),
        "",
        *([traces] if traces else []),
        *_ascending(turns, stores),
    ]
    return "\n".join(lines) + "\n\n" + shard_keys()


def _ascending(turns: int, loads: Sequence[FirestoreLoad]) -> list[str]:
    """A table's head, and a row of each place that Firestore writes in turn."""
    settings = [
        "`listing_shards={}`, `component_shards={}`".format(*load.shards)
        + (", declared fields exempt" if load.exempt else "")
        for load in loads
    ]
    (kind, _), count = loads[0].documents.most_common(1)[0]
    busiest = _rate(count / turns * RATE, DOCUMENT_WRITES)
    counts = [load.ascending() for load in loads]
    lines = [
        "| Firestore: writes a second | limit | " + " | ".join(settings) + " |",
        "|---" * (len(loads) + 2) + "|",
        f"| the hottest document, of `{kind}` | about {DOCUMENT_WRITES} | " + " | ".join(busiest for _ in loads) + " |",
    ]
    for path in sorted({path for found in counts for path in found}):
        rates = [_rate(found[path] / turns * RATE, ASCENDING_WRITES) if path in found else "-" for found in counts]
        where = f"ascending values of `{path[1]}` in `{path[0]}`"
        lines.append(f"| {where} | {ASCENDING_WRITES} | {' | '.join(rates)} |")
    return lines


def traces_markdown(turns: int, loads: Sequence[DynamoLoad]) -> str:
    return "\n".join(
        [
            f"The same with tracing: {RATE:,} turns a second of one agent, each a trace of {SPANS_EACH} spans; what "
            f"these add. {turns:,} turns replayed.",
            "",
            *_partitions(turns, loads),
            "",
        ]
    )


def _partitions(turns: int, loads: Sequence[DynamoLoad]) -> list[str]:
    """A table's head, and a row of each index."""
    settings = [f"`listing_shards={load.shards}`, `component_shards={load.component_shards}`" for load in loads]
    rows: dict[str, list[str]] = {}
    totals: dict[str, float] = {}
    for load in loads:
        for what, _, units, total in hottest(load, turns):
            rows.setdefault(what, []).append(_rate(units, PARTITION_WRITES))
            totals[what] = total
    return [
        f"| DynamoDB: write units a second; a partition takes {PARTITION_WRITES:,} | all together | hottest partition, "
        + " | ".join(settings)
        + " |",
        "|---" * (len(loads) + 2) + "|",
        *(f"| {what} | {totals[what]:,.0f} | {' | '.join(cells)} |" for what, cells in rows.items()),
    ]


def _rate(rate: float, limit: float) -> str:
    return f"{rate:,.0f}" + (" **over**" if rate > limit else "")


def shard_keys() -> str:
    """What a sharded MongoDB wants: by the indexes that each kind declares, which the driver keeps as they are.

    The key is the hashed `_id`, for it alone keeps an id unique over all shards, which makes a run belong to one
    session for good. Whatever names an id goes to one shard; an index is asked on all of them. A unique index over
    something else cannot be had on several shards, so a collection with one stays on one.
    """
    lines = ["| MongoDB | shard key | asked on all shards, unless by id: what is asked by |", "|---|---|---|"]
    claims = {kind.claims for kind in KINDS.values()}  # MongoDB has unique indexes instead
    for kind in KINDS.values():
        if kind.within is not None or kind.name in claims:
            continue
        if kind.unique:
            lines.append(f"| `{kind.name}` | not sharded: {', '.join(f'`{f}`' for f in kind.unique)} unique | - |")
            continue
        asked = dict.fromkeys(", ".join(f"`{name}`" for name in index.eq) or "nothing" for index in kind.indexes)
        lines.append(f'| `{kind.name}` | `{{_id: "hashed"}}` | {"; ".join(asked) or "-"} |')
    return "\n".join(lines) + "\n"


def hottest(dynamo: DynamoLoad, turns: int) -> list[tuple[str, str, float, float]]:
    """Of each kind in each index: the hottest partition key, its write units a second, and those of all together."""
    best: dict[tuple[str, str], tuple[str, int]] = {}
    totals: Counter[tuple[str, str]] = Counter()
    for (index, key), units in dynamo.units.items():
        name = ("", "") if index in ("table", CHANGES) else tuple(key.split("!")[:2])
        group = (index, f"{name[0][1:]} {name[1][1:]}".strip())
        totals[group] += units
        if units > best.get(group, ("", 0))[1]:
            best[group] = (key, units)
    rows = []
    for (index, what), (key, units) in sorted(best.items()):
        shown = key if index not in ("table", CHANGES) else "a session"
        rows.append((what or index, shown, units / turns * RATE, totals[index, what] / turns * RATE))
    return rows


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.add_argument("--turns", type=int, default=20_000)
    parser.add_argument("--before", type=int, default=BEFORE, help="turns that came before; 0: an empty store")
    parser.add_argument("--page", type=Path, help="write the tables between the markers of this file")
    options = parser.parse_args(arguments)
    loads = [DynamoLoad(*setting) for setting in SETTINGS]
    stores = [FirestoreLoad(*setting) for setting in FIRESTORE_SETTINGS]
    replay(options.turns, *loads, *stores, before=options.before)
    traced = [DynamoLoad(*setting) for setting in TRACED]
    replay_traces(options.turns // 10, *traced)
    text = markdown(options.turns, options.before, loads, stores, traces_markdown(options.turns // 10, traced))
    queues = [DynamoLoad(*setting) for setting in QUEUES]
    replay_jobs(JOBS, *queues)
    queue = queue_markdown(JOBS, queues)
    print(text, queue, sep="\n")
    if options.page:
        page = between_markers(options.page.read_text(), "scale", text)
        options.page.write_text(between_markers(page, "queue", queue))
    return 0


if __name__ == "__main__":
    sys.exit(main())
