"""Identity, schema versions, storage: what AgentOS and Agno's migrations ask of a database (contract 1.1)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from agno_docstores.conformance.sessions import agent_session


async def test_the_id_is_stable_over_handles(db: Any, another: Callable[[], Any]) -> None:
    assert isinstance(db.id, str) and db.id
    assert another().id == db.id


async def test_to_dict_can_be_stored_and_repeated(db: Any) -> None:
    first, second = db.raw.to_dict(), db.raw.to_dict()
    assert first == second
    assert json.loads(json.dumps(first)) == first
    assert first["id"] == db.id and first["session_table"] == db.session_table_name


async def test_unstamped_and_stamped_versions(db: Any) -> None:
    version = await db.get_latest_schema_version("agno_sessions")
    assert isinstance(version, str) and version
    await db.upsert_schema_version("agno_sessions", "3.0.1")
    await db.upsert_schema_version("agno_sessions", "3.1.0")
    assert await db.get_latest_schema_version("agno_sessions") == "3.1.0"


async def test_what_was_written_exists(db: Any) -> None:
    await db.upsert_session(agent_session())
    assert await db.table_exists(db.session_table_name) is True
    assert await db.table_exists("surely_not_there") is False


async def test_creating_all_tables_is_idempotent(db: Any) -> None:
    await db._create_all_tables()
    await db.upsert_session(agent_session())
    await db._create_all_tables()
    assert await db.get_session("s1") is not None


async def test_closing_is_idempotent(db: Any) -> None:
    await db.upsert_session(agent_session())
    await db.close()
    await db.close()
