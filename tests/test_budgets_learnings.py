"""What learnings cost, as counts: a user's reads and writes cost the same however many learnings others have."""

from __future__ import annotations

from typing import Any

from agno_docstores.codec import Json
from agno_docstores.port import Put, Ref
from agno_docstores.schema import LEARNINGS
from tests.meters import KB, ON_THE_WIRE, Cost, prose


def learning_of(id: str, user_id: str | None, number: int, text: str = "", **columns: Any) -> Put:
    """A record as the domain stores it, changed last at `number`."""
    fields = {
        **dict.fromkeys(LEARNINGS.fields),
        "learning_type": "fact",
        "user_id": user_id,
        "owner": user_id or "",
        "created_at": number,
        "updated_at": number,
        "touched_at": number,
        **columns,
    }
    content = {"text": f"{text} {prose(600, number)}"}
    return Put(Ref(LEARNINGS.name, id), fields, {"content": Json.of(content), "metadata": Json.of(None)})


async def seed(db: Any, puts: list[Put]) -> None:
    assert await db.raw._engine.kernel.write_many(puts) == []


async def costs_of_a_user(db: Any, meter: Any) -> dict[str, Cost]:
    """What user `u`, who has 60 facts and a profile beside what nobody owns, pays for each operation."""
    costs = {}

    async def measured(name: str, call: Any) -> Any:
        meter.start()
        answer = await call
        costs[name] = meter.stop()
        return answer

    profile = await measured("profile", db.get_learning("user_profile", user_id="u"))
    assert profile is not None
    saved = {"id": "user_profile_u", "learning_type": "user_profile", "user_id": "u"}
    await measured("save what was read", db.upsert_learning(**saved, content={**profile["content"], "n": 1}))
    assert (await db.get_learning("user_profile", user_id="u"))["content"]["n"] == 1
    await measured("save", db.upsert_learning(id="u-60", learning_type="fact", user_id="u", content={"text": "new"}))
    assert await measured("delete", db.delete_learning("u-60")) is True
    assert await measured("other type", db.get_learning("fact", user_id="u")) is not None
    rows = await measured("newest", db.get_learnings(user_id="u", limit=20))
    assert len(rows) == 20
    rows, total = await measured("page", db.list_learnings(user_id="u", limit=20, page=2))
    assert (len(rows), total) == (20, 61)
    rows, total = await measured("typed page", db.list_learnings("fact", user_id="u", limit=20, page=2))
    assert (len(rows), total) == (20, 60)
    rows, total = await measured("page with shared", db.list_learnings(user_id="u", include_global=True, limit=20))
    assert (len(rows), total) == (20, 66)
    rows = await measured("search", db.search_learnings("needle", user_id="u", limit=5))
    assert [row["learning_id"] for row in rows] == ["u-30", "u-3"]
    rows, total = await measured("stats", db.get_learnings_user_stats(user_id="u"))
    assert (len(rows), total) == (1, 1)
    return costs


@ON_THE_WIRE
async def test_a_users_learnings_cost_the_same_however_many_others_have(open_metered: Any) -> None:
    own = [learning_of(f"u-{n}", "u", 1000 + n, "needle" if n in (3, 30) else "") for n in range(60)]
    own.append(learning_of("user_profile_u", "u", 2000, learning_type="user_profile"))
    shared = [learning_of(f"shared-{n}", None, 3000 + n, "needle") for n in range(5)]
    others = [learning_of(f"v{n}", f"v{n % 300}", 500 + 5 * n, "needle") for n in range(900)]
    async with open_metered() as (db, meter):
        await db._create_all_tables()
        await seed(db, own + shared)
        await costs_of_a_user(db, meter)  # opens connections
        alone = await costs_of_a_user(db, meter)
        await seed(db, others)
        among = await costs_of_a_user(db, meter)
    for name, cost in among.items():
        print(f"BUDGET learnings, {name}: {cost}")
    assert {name: cost.requests for name, cost in among.items()} == {n: cost.requests for n, cost in alone.items()}
    assert {name: cost.records for name, cost in among.items()} == {n: cost.records for n, cost in alone.items()}
    most = {
        "profile": 1,
        "save what was read": 1,
        "save": 2,
        "delete": 2,
        "other type": 3,
        "newest": 2,
        "page": 3,
        "typed page": 3,
        "page with shared": 6,
        "search": 2,
        "stats": 1,
    }
    assert {name: cost.requests for name, cost in among.items() if cost.requests > most[name]} == {}
    assert all(cost.bytes <= 80 * KB for cost in among.values())
    assert among["newest"].records <= 40 and among["page"].records <= 60 and among["stats"].records == 1


@ON_THE_WIRE
async def test_a_search_stops_where_it_has_enough(open_metered: Any) -> None:
    puts = [learning_of(f"l{n}", "u", n, "needle" if n >= 560 else "") for n in range(600)]
    async with open_metered() as (db, meter):
        await db._create_all_tables()
        await seed(db, puts)
        await db.get_learning_by_id("l0")  # opens connections
        meter.start()
        rows = await db.search_learnings("needle", user_id="u", limit=10)
        cost = meter.stop()
    assert [row["learning_id"] for row in rows] == [f"l{n}" for n in range(599, 589, -1)]
    print(f"BUDGET learnings, search of the newest: {cost}")
    assert cost.requests <= 3
    assert cost.records <= 200, "600 are there"


@ON_THE_WIRE
async def test_deleting_a_users_learnings_reads_each_once(open_metered: Any) -> None:
    puts = [learning_of(f"u-{n}", "u", n) for n in range(30)]
    puts += [learning_of(f"v{n}", f"v{n}", n) for n in range(200)]
    async with open_metered() as (db, meter):
        await db._create_all_tables()
        await seed(db, puts)
        await db.get_learning_by_id("l0")  # opens connections
        meter.start()
        assert await db.delete_user_learnings("u") == 30
        cost = meter.stop()
        assert (await db.list_learnings())[1] == 200
    print(f"BUDGET learnings, deletion of 30: {cost}")
    assert cost.requests <= 1 + 2 + 30
    assert cost.records <= 2 * 30
