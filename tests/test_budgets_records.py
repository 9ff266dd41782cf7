"""What memories, knowledge contents and eval runs cost, as counts. What is other users' must not show in them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from agno.db.schemas.evals import EvalRunRecord
from agno.db.schemas.knowledge import KnowledgeRow
from agno.db.schemas.memory import UserMemory

from agno_docstores.codec import Json
from agno_docstores.port import Kind, Put, Ref
from agno_docstores.schema import EVALS, KNOWLEDGE, MEMORIES
from tests.meters import KB, ON_THE_WIRE, Cost, prose

OWN, OTHERS, MORE = 60, 100, 500  # records of the user under test; of ten others, at first and later on


def record(kind: Kind, number: int, user_id: str | None, **fields: Any) -> Put:
    """A record with some text, stored in bulk as the domain would have stored it."""
    times = {"created_at": 1000 + number, "updated_at": 9000 - number, "touched_at": 9000 - number}
    known = {**dict.fromkeys(kind.fields), **times, "user_id": user_id, **fields}
    values = {
        "memory": prose(600, number),
        "description": prose(600, number),
        "metadata": {"source": prose(200, number)},
        "eval_data": {"text": prose(1000, number)},
    }
    body = {name: Json.of(values.get(name)) for name in kind.body if name != "topics_as_given"}
    return Put(Ref(kind.name, f"{user_id}-{number}"), known, body)


def memories(user_id: str, numbers: range) -> list[Put]:
    return [record(MEMORIES, n, user_id, inserted_at=n, topics=("food", f"t{n % 7}")) for n in numbers]


def contents(user_id: str | None, numbers: range) -> list[Put]:
    known = {"linked_to": "base", "owner": user_id or ""}
    return [record(KNOWLEDGE, n, user_id, name=f"name {n}", **known) for n in numbers]


def evals(user_id: str, numbers: range) -> list[Put]:
    return [record(EVALS, n, user_id, eval_type="accuracy", agent_id=f"agent of {user_id}") for n in numbers]


Call = Callable[[Any], Awaitable[Any]]


async def measured(
    open_metered: Any, own: list[Put], others: Callable[[range], list[Put]], calls: dict[str, Call]
) -> Any:
    """The cost of each call while others have few records, and when they have many more; the answers have to agree."""
    costs: dict[str, list[Cost]] = {name: [] for name in calls}
    answers: dict[str, list[Any]] = {name: [] for name in calls}
    async with open_metered() as (db, meter):
        kernel = db.raw._engine.kernel
        await db._create_all_tables()
        assert await kernel.write_many(own) == []
        for numbers in (range(OTHERS), range(OTHERS, OTHERS + MORE)):
            assert await kernel.write_many(others(numbers)) == []
            for name, call in calls.items():
                await call(db)  # opens connections
                meter.start()
                answers[name].append(await call(db))
                costs[name].append(meter.stop())
    for name, (few, many) in costs.items():
        print(f"BUDGET {name}: {many}")
        assert answers[name][0] == answers[name][1]
        assert (few.requests, few.records) == (many.requests, many.records), f"{name} costs more with others' records"
        assert abs(many.bytes - few.bytes) <= 0.1 * few.bytes
    return {name: (many, answers[name][1]) for name, (_, many) in costs.items()}


@ON_THE_WIRE
async def test_a_page_of_memories_costs_a_page(open_metered: Any) -> None:
    def page(**arguments: Any) -> Call:
        return lambda db: db.get_user_memories(user_id="u", limit=20, page=2, deserialize=False, **arguments)

    found = await measured(
        open_metered,
        memories("u", range(OWN)),
        lambda numbers: [put for n in range(10) for put in memories(f"v{n}", numbers[n::10])],
        {
            "page of memories": page(),
            "page of memories by updated_at": page(sort_by="updated_at", sort_order="desc"),
            "page of memories by created_at": page(sort_by="created_at", sort_order="desc"),
            "page of memories about a topic": page(topics=["food"]),
        },
    )
    for name, (cost, (rows, total)) in found.items():
        assert (len(rows), total) == (20, OWN)
        assert cost.requests <= 3, name
        assert cost.records <= OWN + 20, name
        assert cost.bytes <= 60 * KB, name


@ON_THE_WIRE
async def test_topics_and_statistics_of_a_user_cost_his_headers(open_metered: Any) -> None:
    found = await measured(
        open_metered,
        memories("u", range(OWN)),
        lambda numbers: [put for n in range(10) for put in memories(f"v{n}", numbers[n::10])],
        {
            "statistics of a user": lambda db: db.get_user_memory_stats(user_id="u"),
            "topics of a user": lambda db: db.get_all_memory_topics(user_id="u"),
        },
    )
    for cost, _ in found.values():
        assert (cost.requests, cost.records) == (1, OWN)
        assert cost.bytes <= 40 * KB


@ON_THE_WIRE
async def test_a_page_of_own_and_shared_knowledge_costs_a_page(open_metered: Any) -> None:
    def page(**arguments: Any) -> Call:
        return lambda db: db.get_knowledge_contents(user_id="u", limit=20, page=1, sort_by="created_at", **arguments)

    found = await measured(
        open_metered,
        contents("u", range(OWN)) + contents(None, range(OWN, 2 * OWN)),
        lambda numbers: [put for n in range(10) for put in contents(f"v{n}", numbers[n::10])],
        {"page of knowledge": page(), "page of knowledge of one base": page(linked_to="base")},
    )
    for name, (cost, (rows, total)) in found.items():
        assert (len(rows), total) == (20, 2 * OWN)
        assert cost.requests <= 6, name
        assert cost.records <= 80, "a page of his own, a page of the shared, and twice that where entries are no bodies"
        assert cost.bytes <= 80 * KB, name


@ON_THE_WIRE
async def test_a_page_of_eval_runs_costs_a_page(open_metered: Any) -> None:
    def page(**arguments: Any) -> Call:
        return lambda db: db.get_eval_runs(limit=20, page=1, deserialize=False, **arguments)

    found = await measured(
        open_metered,
        evals("u", range(OWN)),
        lambda numbers: [put for n in range(10) for put in evals(f"v{n}", numbers[n::10])],
        {"page of an agent's eval runs": page(agent_id="agent of u"), "page of a user's eval runs": page(user_id="u")},
    )
    for name, (cost, (rows, total)) in found.items():
        assert (len(rows), total) == (20, OWN)
        assert cost.requests <= 3, name
        assert cost.records <= 40, name
        assert cost.bytes <= 60 * KB, name


@ON_THE_WIRE
async def test_a_write_costs_a_read_and_a_write(open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await db._create_all_tables()
        calls: dict[str, tuple[int, Call]] = {
            "new memory": (2, lambda db: db.upsert_user_memory(UserMemory("text", "m1", user_id="u"))),
            "new memory without id": (1, lambda db: db.upsert_user_memory(UserMemory("text", user_id="u"))),
            "changed memory": (2, lambda db: db.upsert_user_memory(UserMemory("other", "m1", user_id="u"))),
            "deleted memory": (2, lambda db: db.delete_user_memory("m1", user_id="u")),
            "new content": (2, lambda db: db.upsert_knowledge_content(KnowledgeRow(id="c", name="", description=""))),
            "changed content": (
                2,
                lambda db: db.upsert_knowledge_content(KnowledgeRow(id="c", name="", description="")),
            ),
            "new eval run": (
                1,
                lambda db: db.create_eval_run(EvalRunRecord(run_id="e", eval_type="accuracy", eval_data={})),
            ),
            "owner of an eval run": (2, lambda db: db.update_eval_run_user_id("e", "u")),
            "name of an eval run": (2, lambda db: db.rename_eval_run("e", "name", user_id="u")),
            "deleted eval run": (2, lambda db: db.delete_eval_runs(["e"], user_id="u")),
        }
        for kind in ("memory", "content", "eval run"):  # opens connections, and looks at the storage of each kind once
            await calls[f"new {kind}"][1](db)
        await db.clear_memories()
        await db.delete_knowledge_content("c")
        await db.delete_eval_run("e")
        for name, (requests, call) in calls.items():
            meter.start()
            await call(db)
            cost = meter.stop()
            print(f"BUDGET {name}: {cost}")
            assert cost.requests == requests, name


@ON_THE_WIRE
async def test_memories_in_bulk_cost_batches(cell: Any, open_metered: Any) -> None:
    async with open_metered() as (db, meter):
        await db._create_all_tables()
        await db.upsert_user_memory(UserMemory("text", "first", user_id="u"))
        many = [UserMemory(f"text {n}", f"m{n}", user_id="u") for n in range(90)]
        meter.start()
        assert len(await db.upsert_memories(many)) == 90
        cost = meter.stop()
        print(f"BUDGET 90 new memories: {cost}")
        assert cost.requests <= (4 if cell.store == "dynamo" else 2)
