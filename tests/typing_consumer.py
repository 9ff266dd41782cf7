"""How users write it. Checked by mypy --strict and by pyright in strict mode, never run: a signature that a user's type
checker would refuse, or silently take for `Any`, fails here."""

from __future__ import annotations

from typing import Any, assert_type

import boto3
from agno.agent import Agent
from agno.db.base import AsyncBaseDb, BaseDb, SessionType
from agno.session import AgentSession, Session
from agno.team import Team
from google.cloud import firestore
from pymongo import AsyncMongoClient, MongoClient

from agno_docstores import (
    AsyncMemoryDocstore,
    DocstoreError,
    MemoryDocstore,
    MemoryStore,
    OwnershipError,
    PayloadTooLargeError,
    SessionConflictError,
)
from agno_docstores.facade import AsyncDocstore, Docstore
from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore
from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore
from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore


def sync_stores() -> list[BaseDb]:
    client: MongoClient[dict[str, Any]] = MongoClient()
    # Of all the services that boto3 makes clients of, its type stubs know those that are installed.
    dynamodb = boto3.client("dynamodb")  # pyright: ignore[reportUnknownMemberType]
    return [
        MongoDocstore(db_url="mongodb://localhost:27017", db_name="agents"),
        MongoDocstore(db_client=client, session_table="chats", runs_table="chat_runs"),
        MongoDocstore(db_url="mongodb://localhost:27017", session_collection="chats"),
        DynamoDocstore(),
        DynamoDocstore(region_name="eu-central-1", table_name="agents", provision=False),
        DynamoDocstore(db_client=dynamodb, cache_bytes=0),
        DynamoDocstore(endpoint_url="http://localhost:8000", aws_access_key_id="k", aws_secret_access_key="s"),
        FirestoreDocstore(project_id="my-project", database="(default)", collection_prefix="agents"),
        FirestoreDocstore(db_client=firestore.Client(), id="my-store"),
        MemoryDocstore(),
        MemoryDocstore(store=MemoryStore(atomic=False), memory_table="memories"),
    ]


def async_stores() -> list[AsyncBaseDb]:
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient()
    return [
        AsyncMongoDocstore(db_url="mongodb://localhost:27017", db_name="agents"),
        AsyncMongoDocstore(db_client=client),
        AsyncDynamoDocstore(region_name="eu-central-1", profile_name="work"),
        AsyncFirestoreDocstore(project_id="my-project"),
        AsyncMemoryDocstore(),
    ]


def agents(store: MongoDocstore, other: AsyncDynamoDocstore) -> tuple[Agent, Agent, Team]:
    agent = Agent(db=store, add_history_to_context=True)
    return agent, Agent(db=other), Team(members=[agent], db=store)


def use(store: Docstore) -> None:
    session = store.get_session("s1", SessionType.AGENT, user_id="u", runs_limit=10)
    if isinstance(session, AgentSession):
        session.session_data = {"session_state": {"k": 1}}
        store.upsert_session(session)
    assert_type(store.delete_session("s1", user_id="u"), bool)
    assert_type(store.table_exists("agno_sessions"), bool)
    assert_type(store.io.calls.total(), int)
    store.close()


async def use_async(store: AsyncDocstore) -> None:
    found = await store.get_session(session_id="s1", session_type=SessionType.AGENT, deserialize=False)
    if isinstance(found, dict):
        print(found["session_id"])
    assert_type(await store.delete_session("s1"), bool)
    await store.close()


def any_database(store: BaseDb, session: Session) -> None:
    """A docstore is a `BaseDb`, so what takes one takes ours."""
    store.upsert_session(session)


def errors(store: FirestoreDocstore, session: AgentSession) -> str:
    try:
        any_database(store, session)
    except OwnershipError as error:
        return f"{error.kind} {error.id} {error.user_id}"
    except PayloadTooLargeError as error:
        return f"{error.size} of {error.limit}"
    except SessionConflictError as error:
        return f"{error.expected} {error.found} {error.changed}"
    except DocstoreError as error:
        return str(error)
    return ""
