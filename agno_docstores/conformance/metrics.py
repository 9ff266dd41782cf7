"""Metrics, as `BaseDb` has them: a row for each day and owner, counted from sessions and their runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

from agno.session import TeamSession, WorkflowSession

from agno_docstores.conformance.sessions import agent_session, run_of


def day(ago: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=ago)


def at(ago: int, second: int = 3600) -> int:
    """Epoch seconds of a moment of the day so many days ago."""
    return int(datetime.combine(day(ago), datetime.min.time(), UTC).timestamp()) + second


def used(**tokens: Any) -> dict[str, Any]:
    return {"session_metrics": tokens}


async def rows_of(db: Any, **filters: Any) -> dict[tuple[date, str | None], dict[str, Any]]:
    """The rows after a calculation, by day and owner."""
    await db.calculate_metrics()
    rows, _ = await db.get_metrics(**filters)
    return {(row["date"], row["user_id"]): row for row in rows}


def counts(row: dict[str, Any]) -> tuple[int, ...]:
    """Sessions, then runs, of agents, teams, workflows."""
    names = [f"{kind}_{what}_count" for what in ("sessions", "runs") for kind in ("agent", "team", "workflow")]
    return tuple(row[name] for name in names)


async def test_without_sessions_there_are_no_metrics(db: Any) -> None:
    assert await db.calculate_metrics() is None
    assert await db.get_metrics() == ([], None)
    assert await db.get_metrics(user_id="u", starting_date=day(3), ending_date=day(0)) == ([], None)


async def test_a_row_counts_sessions_runs_tokens_and_models(db: Any) -> None:
    tokens = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "cache_read_tokens": 2, "cost": 3}
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(**tokens)))
    await db.upsert_session(agent_session("b", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
    await db.upsert_session(TeamSession(session_id="t", team_id="t1", user_id="u", created_at=at(0)))
    await db.upsert_session(WorkflowSession(session_id="w", workflow_id="w1", user_id="u", created_at=at(0)))
    for number, (session, model, provider) in enumerate(
        [("a", "m1", "P"), ("a", "m1", "P"), ("a", "m2", "P"), ("b", "m1", "Q"), ("b", None, None)]
    ):
        await db.upsert_run(run_of(f"r{number}", model=model, model_provider=provider), session, "u")
    await db.upsert_run({"run_id": "tr", "team_id": "t1", "model": "m1", "model_provider": "P"}, "t", "u")
    await db.upsert_run({"run_id": "member", "agent_id": "a1", "parent_run_id": "tr"}, "t", "u")
    await db.upsert_run({"run_id": "wr", "workflow_id": "w1"}, "w", "u")
    (row,) = await db.calculate_metrics()
    assert (row["date"], row["user_id"], row["aggregation_period"]) == (day(0), "u", "daily")
    assert (row["completed"], row["users_count"]) == (False, 1)
    assert counts(row) == (2, 1, 1, 5, 2, 1)
    assert row["token_metrics"] == {
        "input_tokens": 11,
        "output_tokens": 5,
        "total_tokens": 15,
        "audio_total_tokens": 0,
        "audio_input_tokens": 0,
        "audio_output_tokens": 0,
        "cache_read_tokens": 2,
        "cache_write_tokens": 0,
        "reasoning_tokens": 0,
    }
    models = {(m["model_id"], m["model_provider"]): m["count"] for m in row["model_metrics"]}
    assert models == {("m1", "P"): 3, ("m2", "P"): 1, ("m1", "Q"): 1}
    rows, updated_at = await db.get_metrics()
    assert rows == [row]
    assert updated_at == row["updated_at"] >= row["created_at"]


async def test_a_row_for_each_day_and_owner(db: Any) -> None:
    await db.upsert_session(agent_session("u0", user_id="u", created_at=at(0)))
    await db.upsert_session(agent_session("u2", user_id="u", created_at=at(2)))
    await db.upsert_session(agent_session("v2", user_id="v", created_at=at(2, 0)))
    await db.upsert_session(agent_session("nobody", created_at=at(2, 86_399)))
    rows = await rows_of(db)
    assert set(rows) == {(day(0), "u"), (day(2), "u"), (day(2), "v"), (day(2), None)}
    assert all(counts(row) == (1, 0, 0, 0, 0, 0) for row in rows.values())
    assert {key: row["completed"] for key, row in rows.items() if row["completed"]} == {
        (day(2), "u"): True,
        (day(2), "v"): True,
        (day(2), None): True,
    }
    assert rows[day(2), None]["users_count"] == 0 and rows[day(2), "v"]["users_count"] == 1


async def test_filters_are_applied_together(db: Any) -> None:
    for ago in (0, 1, 2, 3):
        await db.upsert_session(agent_session(f"u{ago}", user_id="u", created_at=at(ago)))
        await db.upsert_session(agent_session(f"n{ago}", created_at=at(ago)))
    await db.calculate_metrics()
    for filters, expected in (
        ({"user_id": "u", "starting_date": day(2)}, {(day(n), "u") for n in (0, 1, 2)}),
        ({"user_id": "u", "ending_date": day(2)}, {(day(n), "u") for n in (2, 3)}),
        ({"user_id": "", "starting_date": day(2), "ending_date": day(1)}, {(day(n), None) for n in (1, 2)}),
        ({"starting_date": day(3), "ending_date": day(3)}, {(day(3), "u"), (day(3), None)}),
        ({"user_id": "stranger"}, set()),
        ({"starting_date": day(-1)}, set()),
    ):
        rows, updated_at = await db.get_metrics(**filters)
        assert {(row["date"], row["user_id"]) for row in rows} == expected, filters
        assert (updated_at is None) == (not expected)


async def test_counting_again_keeps_the_row_and_follows_what_changed(db: Any) -> None:
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
    await db.upsert_run(run_of("r1", model="m1", model_provider="P"), "a", "u")
    first = (await rows_of(db))[day(0), "u"]
    await db.upsert_session(agent_session("a", user_id="u", session_data=used(input_tokens=4)))
    await db.upsert_run(run_of("r2", model="m1", model_provider="P"), "a", "u")
    await db.upsert_run(run_of("r1", model="m2", model_provider="P"), "a", "u")
    await db.upsert_session(agent_session("b", user_id="u", created_at=at(0)))
    second = (await rows_of(db))[day(0), "u"]
    assert (second["id"], second["created_at"]) == (first["id"], first["created_at"])
    assert counts(second) == (2, 0, 0, 2, 0, 0)
    assert second["token_metrics"]["input_tokens"] == 4
    assert {m["model_id"]: m["count"] for m in second["model_metrics"]} == {"m1": 1, "m2": 1}
    await db.delete_run("r2")
    await db.delete_session("b")
    third = (await rows_of(db))[day(0), "u"]
    assert counts(third) == (1, 0, 0, 1, 0, 0)
    assert {m["model_id"]: m["count"] for m in third["model_metrics"]} == {"m2": 1}


async def test_counting_again_without_a_change_gives_todays_rows(db: Any) -> None:
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0)))
    await db.upsert_session(agent_session("b", user_id="u", created_at=at(1)))
    await db.upsert_run(run_of("r1"), "a", "u")
    assert {row["date"] for row in await db.calculate_metrics()} == {day(0), day(1)}
    (row,) = await db.calculate_metrics()
    assert (row["date"], counts(row)) == (day(0), (1, 0, 0, 1, 0, 0))


async def test_reading_counts_first_once_in_a_while(db: Any) -> None:
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0)))
    rows, _ = await db.get_metrics()
    assert [counts(row) for row in rows] == [(1, 0, 0, 0, 0, 0)]
    await db.upsert_session(agent_session("b", user_id="u", created_at=at(0)))
    rows, _ = await db.get_metrics()
    assert [counts(row) for row in rows] == [(1, 0, 0, 0, 0, 0)], "counted less than a minute ago"
    await db.calculate_metrics()
    rows, _ = await db.get_metrics()
    assert [counts(row) for row in rows] == [(2, 0, 0, 0, 0, 0)]


async def test_a_session_of_an_earlier_day_is_counted_again_when_it_goes_on(db: Any) -> None:
    await db.upsert_session(agent_session("old", user_id="u", created_at=at(3), session_data=used(total_tokens=1)))
    await db.upsert_run(run_of("r1"), "old", "u")
    assert counts((await rows_of(db))[day(3), "u"]) == (1, 0, 0, 1, 0, 0)
    await db.upsert_session(agent_session("old", user_id="u", session_data=used(total_tokens=7)))
    await db.upsert_run(run_of("r2"), "old", "u")
    rows = await rows_of(db)
    assert set(rows) == {(day(3), "u")}
    row = rows[day(3), "u"]
    assert (counts(row), row["token_metrics"]["total_tokens"], row["completed"]) == ((1, 0, 0, 2, 0, 0), 7, True)


async def test_what_a_completed_day_counted_outlives_the_session(db: Any) -> None:
    await db.upsert_session(agent_session("old", user_id="u", created_at=at(3)))
    await db.upsert_run(run_of("r1"), "old", "u")
    await db.calculate_metrics()
    await db.delete_session("old")
    assert counts((await rows_of(db))[day(3), "u"]) == (1, 0, 0, 1, 0, 0)


async def test_a_session_is_counted_under_one_owner(db: Any) -> None:
    await db.upsert_session(agent_session("a", created_at=at(0)))
    await db.upsert_run(run_of("r1"), "a")
    assert set(await rows_of(db)) == {(day(0), None)}
    await db.upsert_session(agent_session("a", user_id="u"))
    rows = await rows_of(db)
    assert counts(rows[day(0), "u"]) == (1, 0, 0, 1, 0, 0)
    assert counts(rows[day(0), None]) == (0, 0, 0, 0, 0, 0)


async def test_a_session_of_which_nothing_can_be_told_blocks_no_other(db: Any) -> None:
    for number, data in enumerate([["no", "object"], {"session_metrics": "many"}, used(input_tokens="5"), None]):
        await db.upsert_session(agent_session(f"s{number}", user_id="u", created_at=at(0), session_data=data))
    await db.upsert_session(agent_session("good", user_id="u", created_at=at(0), session_data=used(input_tokens=5)))
    row = (await rows_of(db))[day(0), "u"]
    assert (counts(row), row["token_metrics"]["input_tokens"]) == ((2, 0, 0, 0, 0, 0), 5)
    await db.upsert_session(agent_session("s2", user_id="u", session_data=used(input_tokens=6)))
    row = (await rows_of(db))[day(0), "u"]
    assert (counts(row), row["token_metrics"]["input_tokens"]) == ((3, 0, 0, 0, 0, 0), 11)


async def test_what_one_process_counted_another_goes_on_from(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    await db.upsert_session(agent_session("a", user_id="u", created_at=at(0), session_data=used(input_tokens=1)))
    await db.upsert_run(run_of("r1"), "a", "u")
    await other.calculate_metrics()
    # A handle that remembers the session from before the other one counted it:
    await db.upsert_session(agent_session("a", user_id="u", session_data=used(input_tokens=3)))
    assert (await rows_of(other))[day(0), "u"]["token_metrics"]["input_tokens"] == 3
    await db.upsert_run(run_of("r2"), "a", "u")
    assert counts((await rows_of(other))[day(0), "u"]) == (1, 0, 0, 2, 0, 0)
    assert (await rows_of(db)) == (await rows_of(other))
