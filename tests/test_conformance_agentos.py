"""AgentOS on every store as on the oracle; and that an answer which differs is told from one that does not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from agno.db.sqlite import AsyncSqliteDb, SqliteDb

from agno_docstores.conformance.agentos import *  # noqa: F403
from agno_docstores.conformance.agentos import compared, differences, seed_memories

# Each store in both modes, and on an embedded server; what differs between the other cells is below AgentOS.
pytestmark = pytest.mark.cells(
    "memory-sync", "memory-async", "mongo-sync-standalone", "mongo-async-secantus", "dynamo-sync-local",
    "dynamo-async-local", "dynamo-async-moto", "firestore-sync-google", "firestore-async-embedded", "sqlite-*",
)  # fmt: skip

Spoil = Callable[[Any], Any]


def spoiled(raw: Any, method: str, spoil: Spoil) -> Any:
    """A database one of whose methods returns something else."""
    original = getattr(raw, method)

    async def later(*args: Any, **kwargs: Any) -> Any:
        return spoil(await original(*args, **kwargs))

    def now(*args: Any, **kwargs: Any) -> Any:
        return spoil(original(*args, **kwargs))

    setattr(raw, method, later if isinstance(raw, AsyncSqliteDb) else now)
    return raw


def with_row(**values: Any) -> Spoil:
    return lambda found: ([{**row, **values} for row in found[0]], found[1])


@pytest.mark.parametrize("kind", [SqliteDb, AsyncSqliteDb])
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(lambda found: (found[0], 4), "meta.total_count: 4, the oracle has 5", id="total"),
        pytest.param(lambda found: (found[0][1:], found[1]), "data: 4 items, the oracle has 5", id="a row less"),
        pytest.param(
            lambda found: (found[0][::-1], found[1]), "data[0].memory_id: 'm1', the oracle has 'm5'", id="order"
        ),
        pytest.param(with_row(updated_at=1_700_000_001), "updated_at: '2023-11-14T22:13:21Z'", id="a second late"),
        pytest.param(with_row(topics=[]), "data[0].topics: [], the oracle has None", id="none and empty"),
        pytest.param(with_row(updated_at=None), "data[0].updated_at: None, the oracle has", id="a time is missing"),
        pytest.param(lambda found: 1 / 0, "Internal server error", id="refusal"),
    ],
)
async def test_an_answer_that_differs_is_told(kind: Any, spoil: Spoil, told: str, tmp_path: Path, quiet: None) -> None:
    raw = spoiled(kind(db_file=str(tmp_path / "spoiled.db")), "get_user_memories", spoil)
    async with compared(raw, tmp_path) as both:
        await seed_memories(both)
        with pytest.raises(AssertionError) as caught:
            await both.get("/memories")
        assert told in str(caught.value)
        await both.get("/memories/m1")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        pytest.param(
            {"updated_at": 1_700_000_000}, "answer.updated_at: '2023-11-14T22:13:20Z', the oracle has 'now'", id="old"
        ),
        pytest.param({"memory_id": "m1"}, "answer.memory_id: 'm1', the oracle has 'generated-0'", id="id"),
    ],
)
async def test_a_name_stands_for_what_was_made_up_only(
    spoil: dict[str, Any], told: str, tmp_path: Path, quiet: None
) -> None:
    raw = spoiled(SqliteDb(db_file=str(tmp_path / "spoiled.db")), "upsert_user_memory", lambda row: {**row, **spoil})
    async with compared(raw, tmp_path) as both:
        with pytest.raises(AssertionError) as caught:
            await both.post("/memories", {"memory": "x", "user_id": "u"})
        assert told in str(caught.value)


async def test_a_made_up_id_has_to_stay_the_same(tmp_path: Path, quiet: None) -> None:
    raw = SqliteDb(db_file=str(tmp_path / "spoiled.db"))
    async with compared(raw, tmp_path) as both:
        made = await both.post("/memories", {"memory": "x", "user_id": "u"})
        other = {"memory_id": "00000000-0000-0000-0000-000000000000"}
        spoiled(raw, "get_user_memory", lambda row: {**row, **other})
        with pytest.raises(AssertionError, match=r"memory_id: 'generated-1', the oracle has 'generated-0'"):
            await both.get(f"/memories/{made['memory_id']}")


def test_differences_are_of_type_too() -> None:
    ours = {"same": [1, None, {"x": "y"}], "float": 1.0, "true": True, "ours": 1}
    theirs = {"same": [1, None, {"x": "y"}], "float": 1, "true": 1, "theirs": None}
    assert list(differences(ours, theirs)) == [
        "answer.float: 1.0, the oracle has 1",
        "answer.true: True, the oracle has 1",
        "answer.ours: only the store under test has it",
        "answer.theirs: only the oracle has it",
    ]
