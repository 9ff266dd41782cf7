"""Nothing that a caller passes becomes an operator, an expression or a pattern, of whatever type it is."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import boto3
import pymongo
import pytest
from bson.regex import Regex
from pymongo.monitoring import CommandListener, CommandStartedEvent

from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.knowledge import content_of
from agno_docstores.conformance.management import listed
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.ownership import conversations, records
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.sessions import named, run_of
from agno_docstores.conformance.traces import cond, trace
from agno_docstores.facade import Docstore
from tests import surface
from tests.harness import Cell, _at

NOTHING: tuple[Any, ...] = (None, [], {}, 0, ([], 0), ([], None))
OPERATORS: tuple[Any, ...] = ({"$gt": ""}, {"$ne": None}, [""], re.compile(".*"), b"s1", object())
#: What every call needs, and none is asked with an operator for here: ids in general have a test of their own.
NEEDED = {"session_id": "s1", "learning_type": "fact", "query": "wonder"}
#: Parameters that are no filter: how much, in which form and order.
NO_FILTERS = re.compile(
    "limit|page.*|deserialize|sort_.*|include_.*|last_n.*|num_.*|max_.*|runs_limit|skip_.*|.*ing_date|group_by|raise_on_error|self"
)


def filters() -> Iterator[tuple[str, str]]:
    """Every filter of every method that lists, searches or counts."""
    for name, method in surface.methods(Docstore).items():
        own = method is not getattr(surface.BASES[0], name, None)
        if not own or not name.startswith(("get_", "list_", "search_", "count_")):
            continue
        for parameter in inspect.signature(method).parameters:
            if not NO_FILTERS.fullmatch(parameter):
                yield name, parameter


def leaves(value: Any) -> list[Any]:
    """What is in an answer, however deep."""
    return [leaf for item in value.values() for leaf in leaves(item)] if isinstance(value, dict) else [value]


# One cell of each store: what looks at arguments is the same for all modes and servers.
@pytest.mark.cells("memory-sync", "mongo-sync-secantus", "dynamo-sync-moto", "firestore-sync-embedded")
async def test_what_is_no_text_is_refused_or_finds_nothing(db: Any) -> None:
    await conversations(db)
    await records(db)
    asked = list(filters())
    assert {"get_sessions", "get_runs", "get_user_memories", "search_learnings", "get_traces"} <= {n for n, _ in asked}
    for number, (name, parameter) in enumerate(asked):
        parameters = inspect.signature(getattr(Docstore, name)).parameters.values()
        needed = {p.name: NEEDED[p.name] for p in parameters if p.name in NEEDED and p.default is p.empty}
        for operator in (OPERATORS[0], OPERATORS[number % len(OPERATORS)]):
            try:
                answer = await getattr(db, name)(**{**needed, parameter: operator})
                answer = await listed(answer) if hasattr(answer, "__next__") or hasattr(answer, "__anext__") else answer
            except (TypeError, ValueError):
                continue
            if isinstance(answer, dict) and not any(leaves(answer)):
                continue  # under each key that was asked for, nothing
            assert any(answer == nothing for nothing in NOTHING) or name == "get_latest_schema_version", (
                f"{name}({parameter}={operator!r}) gave {answer!r}"
            )


# --- What reaches the server ------------------------------------------------------------------------------------------

#: Text that each store's language would make something of, and that takes for ever as a pattern.
PATTERN = "(a+)+$ #n0 :v0 {$gt: ''} attribute_exists(pk)"


async def searched(db: Any) -> None:
    """Write, find and remove by that text, by every search there is."""
    await db.upsert_session(named(PATTERN, PATTERN, user_id=PATTERN))
    await db.upsert_run(run_of(PATTERN), PATTERN, PATTERN)
    await db.upsert_user_memory(memory_of(PATTERN, memory=PATTERN, user_id=PATTERN, topics=[PATTERN]))
    await db.upsert_user_memory(memory_of("long", memory="a" * 10_000 + "!"))
    await db.upsert_learning(id=PATTERN, learning_type="fact", content={"text": PATTERN}, namespace=PATTERN)
    await db.upsert_learning(id="long", learning_type="fact", content={"text": "a" * 10_000 + "!"})
    await db.upsert_knowledge_content(content_of(PATTERN, linked_to=PATTERN))
    await db.create_eval_run(eval_of(PATTERN, agent_id=PATTERN))
    await db.upsert_trace(trace("t1", name=PATTERN, session_id=PATTERN))
    for session_name in (PATTERN, PATTERN[3:20].upper()):
        assert len(await db.get_sessions(session_name=session_name)) == 1
    for options in ({"search_content": PATTERN}, {"topics": [PATTERN]}, {"user_id": PATTERN, "search_content": "+)+$"}):
        assert [memory.memory_id for memory in await db.get_user_memories(**options)] == [PATTERN]
    for query in (PATTERN, "(a+)+$"):
        assert [row["learning_id"] for row in await db.search_learnings(query)] == [PATTERN]
    assert await db.search_learnings("a.*a") == []
    for op in ("CONTAINS", "STARTSWITH", "EQ"):
        assert (await db.get_traces(filter_expr=cond(op, "name", PATTERN)))[1] == 1
    assert (await db.get_knowledge_contents(linked_to=PATTERN, sort_by="name"))[1] == 1
    assert len(await db.get_eval_runs(agent_id=PATTERN)) == 1
    await db.update_session_data(PATTERN, set={(PATTERN,): 1})
    await db.rename_session(PATTERN, None, PATTERN)
    await db.delete_user_memory(PATTERN, user_id=PATTERN)
    assert await db.delete_session(PATTERN, user_id=PATTERN)


def nodes(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key in a document, however deep, with its value."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key, inner
            yield from nodes(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield "", inner
            yield from nodes(inner)


class Commands(CommandListener):
    """All commands that a client sends."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.sent.append(event.command)

    def succeeded(self, event: Any) -> None: ...

    def failed(self, event: Any) -> None: ...


@pytest.mark.cells("mongo-sync-secantus")
async def test_no_pattern_and_no_code_reaches_mongodb(cell: Cell, storage: str) -> None:
    from agno_docstores_mongo import MongoDocstore

    commands = Commands()
    with pymongo.MongoClient(cell.server.start(), event_listeners=[commands]) as client:
        await searched(Awaitable(MongoDocstore(client, db_name=storage)))
    keys = [(key, value) for command in commands.sent for key, value in nodes(command)]
    assert ("$eq", PATTERN) in keys
    assert not {"$regex", "$where", "$expr", "$function", "$text", "$search", "$jsonSchema"} & {key for key, _ in keys}
    assert not any(isinstance(value, re.Pattern | Regex) for _, value in keys)
    assert not any(key.startswith("$") and PATTERN in key for key, _ in keys)


@pytest.mark.cells("dynamo-sync-*")
async def test_no_text_gets_into_an_expression_of_dynamodb(cell: Cell, storage: str) -> None:
    from agno_docstores_dynamo import DynamoDocstore

    sent: list[Any] = []
    client = boto3.client("dynamodb", **_at(cell))
    client.meta.events.register("provide-client-params.dynamodb", lambda params, **_: sent.append(params))
    await searched(Awaitable(DynamoDocstore(client, table_name=storage)))
    client.close()
    expressions = [value for params in sent for key, value in nodes(params) if key.endswith("Expression")]
    assert expressions
    assert not any(part in expression for expression in expressions for part in ("(a+)", "$gt", "''"))
    values = [value for params in sent for key, value in nodes(params) if key == "S"]
    assert any(PATTERN in value for value in values)
