"""Contract 1.7, eval runs, as Agno's SqliteDb has them: creation, owner and name, listings, removal."""

from __future__ import annotations

import time
from typing import Any

import pytest
from agno.db.schemas.evals import EvalFilterType, EvalRunRecord, EvalType
from agno.db.utils import is_unique_violation


def eval_of(run_id: str = "e1", **values: Any) -> EvalRunRecord:
    return EvalRunRecord(run_id=run_id, **{"eval_type": EvalType.ACCURACY, "eval_data": {"score": 1}, **values})


async def ids(db: Any, **arguments: Any) -> list[str]:
    """The ids of a listing, in order; the rows and the total of the same listing have to agree."""
    runs = await db.get_eval_runs(**arguments)
    rows, total = await db.get_eval_runs(**arguments, deserialize=False)
    assert [run.run_id for run in runs] == [row["run_id"] for row in rows]
    assert "limit" in arguments or total == len(rows)
    return [run.run_id for run in runs]


# --- One eval run -----------------------------------------------------------------------------------------------------


async def test_reads_on_empty_storage_are_empty(db: Any) -> None:
    assert await db.get_eval_run("nobody") is None
    assert await db.get_eval_run("nobody", deserialize=False, user_id="u") is None
    assert await db.get_eval_runs() == []
    assert await db.get_eval_runs(limit=5, page=2, agent_id="a", deserialize=False) == ([], 0)
    assert await db.rename_eval_run("nobody", "name") is None
    assert await db.update_eval_run_user_id("nobody", "u") is None
    assert await db.delete_eval_run("nobody") is None
    assert await db.delete_eval_runs(["nobody"]) is None
    assert await db.delete_eval_runs(["nobody"], user_id="u") is None


async def test_an_eval_run_comes_back_whole(db: Any) -> None:
    run = eval_of(
        agent_id="a", model_id="m", model_provider="p", team_id="t", workflow_id="w", name="first",
        evaluated_component_name="c", eval_type=EvalType.RELIABILITY,
        eval_data={"dotted.key": [1, 2.0, None], "$d": {"": 2**70}, "nul": "a\x00b"}, eval_input={"é": "日本"},
    )  # fmt: skip
    assert await db.create_eval_run(run) is run
    found = await db.get_eval_run("e1")
    assert found == run and repr(found.eval_data) == repr(run.eval_data)
    assert await db.get_eval_runs() == [run]


async def test_a_row_is_a_dict_of_every_column(db: Any) -> None:
    before = int(time.time())
    await db.create_eval_run(eval_of())
    row = await db.get_eval_run("e1", deserialize=False)
    assert type(row) is dict
    assert before <= row["created_at"] == row["updated_at"] <= time.time() + 1
    assert row == {
        "run_id": "e1", "eval_type": "accuracy", "eval_data": {"score": 1}, "eval_input": None, "name": None,
        "agent_id": None, "team_id": None, "workflow_id": None, "model_id": None, "model_provider": None,
        "evaluated_component_name": None, "user_id": None, "created_at": row["created_at"],
        "updated_at": row["created_at"],
    }  # fmt: skip
    assert type(row["eval_type"]) is str
    assert await db.get_eval_runs(deserialize=False) == ([row], 1)


async def test_an_id_is_used_once(db: Any) -> None:
    await db.create_eval_run(eval_of(name="first"))
    await db.update_eval_run_user_id("e1", "u")
    with pytest.raises(Exception, match="e1") as caught:
        await db.create_eval_run(eval_of(name="second", eval_data={"other": 1}))
    assert is_unique_violation(caught.value)
    row = await db.get_eval_run("e1", deserialize=False)
    assert (row["name"], row["eval_data"], row["user_id"]) == ("first", {"score": 1}, "u")
    await db.delete_eval_run("e1")
    await db.create_eval_run(eval_of(name="third"))
    row = await db.get_eval_run("e1", deserialize=False)
    assert (row["name"], row["user_id"]) == ("third", None)


async def test_what_json_cannot_hold_is_refused_and_nothing_written(db: Any) -> None:
    for column in ("eval_data", "eval_input"):
        with pytest.raises(Exception, match="set"):
            await db.create_eval_run(eval_of("e1", **{column: {"deep": [{1, 2}]}}))
    assert await db.get_eval_run("e1") is None


async def test_returned_objects_are_the_callers_own(db: Any) -> None:
    run = eval_of(eval_data={"k": [1]})
    await db.create_eval_run(run)
    run.eval_data["k"].append(2)
    (await db.get_eval_run("e1")).eval_data["k"].append(3)
    assert (await db.get_eval_run("e1")).eval_data == {"k": [1]}


async def test_ids_are_values_never_patterns(db: Any) -> None:
    odd = ["a/b", "..", "__x__", "$gt", "{}", "%", "_", "a%2Fb", "x" * 1600]
    for text in odd:
        await db.create_eval_run(eval_of(text, agent_id=text, model_id=text))
        await db.update_eval_run_user_id(text, text)
    for text in odd:
        assert (await db.get_eval_run(text, user_id=text)).run_id == text
        assert await ids(db, agent_id=text, model_id=text, user_id=text) == [text]
        await db.delete_eval_runs([text], user_id=text)
    assert await ids(db) == []


# --- Name and owner ---------------------------------------------------------------------------------------------------


async def test_rename_sets_the_name_and_nothing_else(db: Any) -> None:
    await db.create_eval_run(eval_of(name="old", agent_id="a", eval_input={"x": 1}))
    await db.update_eval_run_user_id("e1", "u")
    before = await db.get_eval_run("e1", deserialize=False)
    renamed = await db.rename_eval_run("e1", "new")
    assert isinstance(renamed, EvalRunRecord) and renamed.name == "new"
    row = await db.rename_eval_run("e1", "newer", deserialize=False, user_id="u")
    assert row["updated_at"] >= before["updated_at"]
    assert row == {**before, "name": "newer", "updated_at": row["updated_at"]}
    assert await db.get_eval_run("e1", deserialize=False) == row


async def test_the_owner_is_set_whoever_it_was(db: Any) -> None:
    await db.create_eval_run(eval_of(name="n"))
    before = await db.get_eval_run("e1", deserialize=False)
    for user in ("u", "v", 5):
        assert await db.update_eval_run_user_id("e1", user) is None
        row = await db.get_eval_run("e1", deserialize=False, user_id=str(user))
        assert row == {**before, "user_id": str(user)}
    assert await ids(db, user_id="u") == [] and await ids(db, user_id="5") == ["e1"]


async def test_a_stranger_reads_renames_and_deletes_nothing(db: Any) -> None:
    for run_id, user in (("mine", "u"), ("nobodys", None)):
        await db.create_eval_run(eval_of(run_id, name="kept"))
        if user is not None:
            await db.update_eval_run_user_id(run_id, user)
    for run_id in ("mine", "nobodys"):
        assert await db.get_eval_run(run_id, user_id="stranger") is None
        assert await db.get_eval_run(run_id, user_id="stranger", deserialize=False) is None
        assert await db.rename_eval_run(run_id, "stolen", user_id="stranger") is None
        assert await db.delete_eval_runs([run_id], user_id="stranger") is None
    assert await ids(db, user_id="stranger") == []
    assert sorted(run.name for run in await db.get_eval_runs()) == ["kept", "kept"]
    assert (await db.get_eval_run("mine", user_id="u")).run_id == "mine"


async def test_deletions_take_what_is_the_users(db: Any) -> None:
    for run_id, user in (("e1", "u"), ("e2", "v"), ("e3", None), ("e4", "u"), ("e5", "u")):
        await db.create_eval_run(eval_of(run_id))
        if user is not None:
            await db.update_eval_run_user_id(run_id, user)
    await db.delete_eval_runs(["e1", "e2", "e3", "e4", "e4", "nobody"], user_id="u")
    assert sorted(await ids(db)) == ["e2", "e3", "e5"]
    await db.delete_eval_run("e3")
    await db.delete_eval_runs(["e2", "nobody"])
    await db.delete_eval_runs([])
    assert await ids(db) == ["e5"] and await db.get_eval_run("e2") is None


# --- Listings ---------------------------------------------------------------------------------------------------------


async def seed(db: Any) -> None:
    types = list(EvalType)
    for number in (3, 0, 5, 1, 7, 2, 6, 4):
        await db.create_eval_run(
            eval_of(
                f"e{number}",
                eval_type=types[number % 4],
                agent_id=f"a{number % 2}" if number < 5 else None,
                team_id="t" if number in (5, 6) else None,
                workflow_id="w" if number in (0, 7) else None,
                model_id=f"m{number % 3}",
                name=f"name {9 - number}",
            )
        )
    for number in (1, 2, 4):
        await db.update_eval_run_user_id(f"e{number}", "u")


async def test_filters_all_apply(db: Any) -> None:
    await seed(db)

    async def found(**filters: Any) -> str:
        return " ".join(sorted(await ids(db, **filters)))

    assert await found() == "e0 e1 e2 e3 e4 e5 e6 e7"
    assert await found(agent_id="a0") == "e0 e2 e4"
    assert await found(team_id="t") == "e5 e6"
    assert await found(workflow_id="w") == "e0 e7"
    assert await found(model_id="m1") == "e1 e4 e7"
    assert await found(user_id="u", agent_id="a0", model_id="m1") == "e4"
    assert await found(filter_type=EvalFilterType.AGENT) == "e0 e1 e2 e3 e4"
    assert await found(filter_type=EvalFilterType.TEAM) == "e5 e6"
    assert await found(filter_type=EvalFilterType.WORKFLOW, agent_id="a0") == "e0"
    assert await found(filter_type="team", model_id="m0") == "e6"
    assert await found(eval_type=[EvalType.ACCURACY]) == "e0 e4"
    assert await found(eval_type=[EvalType.ACCURACY, EvalType.RELIABILITY], user_id="u") == "e4"
    assert await found(eval_type=["accuracy", "performance"], filter_type=EvalFilterType.AGENT) == "e0 e2 e4"
    assert await found(eval_type=[], model_id="m2") == "e2 e5"


async def test_a_kind_of_component_that_there_is_not_is_refused(db: Any) -> None:
    await db.create_eval_run(eval_of())
    with pytest.raises(ValueError, match="nonsense"):
        await db.get_eval_runs(filter_type="nonsense")


async def test_the_latest_come_first(db: Any) -> None:
    now = int(time.time())
    await seed(db)
    for arguments in ({}, {"agent_id": "a0"}, {"sort_by": "created_at"}, {"sort_by": "created_at", "user_id": "u"}):
        rows, _ = await db.get_eval_runs(deserialize=False, **arguments)
        times = [row["created_at"] for row in rows]
        assert times == sorted(times, reverse=True) and min(times) >= now


async def test_other_columns_sort_too(db: Any) -> None:
    await seed(db)
    assert await ids(db, sort_by="name", sort_order="asc") == [f"e{n}" for n in range(7, -1, -1)]
    assert await ids(db, sort_by="name", sort_order="desc", limit=3, page=2) == ["e3", "e4", "e5"]
    assert await ids(db, sort_by="name", sort_order="asc", user_id="u") == ["e4", "e2", "e1"]
    assert await ids(db, sort_by="run_id", sort_order="asc", agent_id="a1") == ["e1", "e3"]
    assert len(await ids(db, sort_by="eval_data")) == len(await ids(db, sort_by="nonsense")) == 8
    for order in ("asc", "desc"):
        rows, _ = await db.get_eval_runs(sort_by="updated_at", sort_order=order, deserialize=False)
        times = [row["updated_at"] for row in rows]
        assert times == sorted(times, reverse=order == "desc")


async def test_a_run_that_was_renamed_is_the_last_updated(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for run_id in ("e1", "e2", "e3"):
        await db.create_eval_run(eval_of(run_id, agent_id="a"))
    later = time.time() + 100
    monkeypatch.setattr(time, "time", lambda: later)
    await db.rename_eval_run("e2", "later")
    for filters in ({}, {"agent_id": "a"}):
        assert (await ids(db, sort_by="updated_at", sort_order="desc", **filters))[0] == "e2"
        assert (await ids(db, sort_by="updated_at", sort_order="asc", **filters))[2] == "e2"


async def test_pages_neither_repeat_nor_skip_and_totals_are_of_all(db: Any) -> None:
    await seed(db)
    for sort_by in (None, "model_id"):
        seen: list[str] = []
        for page in (1, 2, 3):
            rows, total = await db.get_eval_runs(limit=3, page=page, sort_by=sort_by, deserialize=False)
            assert total == 8
            seen += [row["run_id"] for row in rows]
        assert sorted(seen) == [f"e{n}" for n in range(8)]
    rows, total = await db.get_eval_runs(eval_type=[EvalType.ACCURACY], limit=1, page=2, deserialize=False)
    assert (len(rows), total) == (1, 2)
    for limit, page in ((None, 2), (5, 0)):
        with pytest.raises(ValueError):
            await db.get_eval_runs(limit=limit, page=page)


async def test_totals_hold_past_the_end(db: Any) -> None:
    await seed(db)
    assert await db.get_eval_runs(limit=5, page=9, deserialize=False) == ([], 8)
    assert await db.get_eval_runs(limit=5, page=9, sort_by="name", agent_id="a0", deserialize=False) == ([], 3)
    assert await db.get_eval_runs(limit=0, model_id="m1", deserialize=False) == ([], 3)
