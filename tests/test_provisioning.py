"""Storage comes into being when it is needed, once, or not at all where that is not wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agno_docstores import ProvisioningError
from agno_docstores.cli import build_parser, main, plugins
from agno_docstores.conformance.concurrency import at_once
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.runs import run_ids
from agno_docstores.conformance.sessions import agent_session, run_of

WITH_TABLES = pytest.mark.cells("mongo-*", "dynamo-*")


@WITH_TABLES
async def test_without_provisioning_a_missing_table_is_named(db: Any, open_another: Callable[..., Any]) -> None:
    strict = Awaitable(open_another(provision=False))
    assert await strict.get_session("s1") is None
    with pytest.raises(ProvisioningError) as caught:
        await strict.upsert_session(agent_session())
    assert caught.value.table and caught.value.table in str(caught.value)
    assert "agno-docstores provision" in caught.value.command and caught.value.command in str(caught.value)
    assert await db.table_exists(db.session_table_name) is False
    await db._create_all_tables()
    await strict.upsert_session(agent_session())
    await strict.upsert_run(run_of("r1"), "s1")
    assert await run_ids(db) == ["r1"]
    await close(strict.raw)


async def test_reading_creates_nothing(db: Any) -> None:
    assert await db.get_session("s1") is None
    assert await db.get_sessions() == []
    assert await db.get_run("r1") is None
    assert await db.get_runs(session_id="s1") == []
    assert await db.delete_session("s1") is False
    assert await db.table_exists(db.session_table_name) is False


async def test_many_first_writers_agree_on_the_storage(db: Any, another: Callable[[], Any]) -> None:
    handles = [db, *(another() for _ in range(5))]
    calls: list[Any] = [
        (handles[n % 6].raw.upsert_session, (agent_session(f"s{n}", user_id="u"),), {}) for n in range(18)
    ]
    results = await at_once(db, calls)
    assert [result for result in results if isinstance(result, Exception)] == []
    assert len(await db.get_sessions(user_id="u")) == 18


async def test_a_warm_turn_calls_no_control_plane(db: Any) -> None:
    control = {
        "create_table", "describe_table", "update_table", "describe_time_to_live", "update_time_to_live", "list_tables",
        "create_indexes", "list_indexes", "index_information", "list_collection_names", "create_collection", "hello",
        "command",
    }  # fmt: skip
    for turn in range(2):
        if turn:
            db.io.calls.clear()
        await db.get_session("s1")
        await db.upsert_session(agent_session())
        await db.upsert_run(run_of(f"r{turn}"), "s1")
    assert set(db.io.calls) & control == set()
    assert db.io.calls.total() <= 4


# --- The command line -------------------------------------------------------------------------------------------------


def test_the_command_of_an_error_is_one_that_the_command_line_takes() -> None:
    from agno_docstores_dynamo import DynamoDocstore
    from agno_docstores_mongo import MongoDocstore

    stores = [
        MongoDocstore(db_url="mongodb://name:hunter2@localhost:27017", db_name="agents", session_table="chats"),
        DynamoDocstore(region_name="eu-west-1", table_name="agents"),
    ]
    for db in stores:
        for kind in ("sessions", "runs"):
            command = db._engine.driver.create_command(kind)
            assert "hunter2" not in command
            program, *arguments = command.split()
            assert program == "agno-docstores"
            parsed = build_parser(plugins()).parse_args(arguments)
            assert parsed.command == "provision"


def test_no_secret_is_taken_on_the_command_line() -> None:
    for store in plugins():
        with pytest.raises(SystemExit):
            build_parser(plugins()).parse_args(["provision", store, "--aws-secret-access-key", "x"])


def test_the_memory_store_is_provisioned_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provision", "memory"]) == 0
    assert "provisioned MemoryDocstore" in capsys.readouterr().out
    assert main(["stores"]) == 0
    assert "agno_docstores_mongo.MongoDocstore" in capsys.readouterr().out


@pytest.mark.cells("mongo-sync-secantus", "dynamo-sync-local", "dynamo-async-moto")
async def test_a_store_is_provisioned_from_the_command_line(
    cell: Any, storage: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "local")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "local")
    address = cell.server.start()
    arguments = {
        "mongo": ["--db-url", address, "--db-name", storage],
        "dynamo": ["--endpoint-url", address, "--region-name", "us-east-1", "--table-name", storage],
    }[cell.store]
    assert main(["provision", cell.store, *arguments]) == 0
    assert "provisioned" in capsys.readouterr().out
    strict = Awaitable(cell.open(storage, provision=False))
    await strict.upsert_session(agent_session())
    await close(strict.raw)


def test_a_store_that_is_not_there_is_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provision", "mongo", "--db-url", "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=300"]) == 1
    assert "127.0.0.1:9" in capsys.readouterr().err
