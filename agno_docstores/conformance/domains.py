"""Unmodified features of Agno on a store: memories, knowledge, evals, tracing and learning, driven as users drive them.

Needs the fixture `open_another`. The test of tracing needs Agno's tracing packages besides.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pytest
from agno.agent import Agent
from agno.db.schemas.evals import EvalFilterType, EvalType
from agno.eval.accuracy import AccuracyAgentResponse, AccuracyEval
from agno.eval.reliability import ReliabilityEval
from agno.knowledge.content import Content, ContentStatus
from agno.knowledge.knowledge import Knowledge
from agno.learn import LearningMachine
from agno.learn.config import (
    DecisionLogConfig,
    EntityMemoryConfig,
    LearningMode,
    SessionContextConfig,
    UserMemoryConfig,
    UserProfileConfig,
)
from agno.learn.migrations import arekey_user_entity_learnings, rekey_user_entity_learnings
from agno.learn.schemas import DecisionLog, SessionContext, UserProfile
from agno.learn.stores import (
    DecisionLogStore,
    EntityMemoryStore,
    SessionContextStore,
    UserMemoryStore,
    UserProfileStore,
)
from agno.learn.utils import build_learning_id, legacy_entity_learning_id
from agno.memory import MemoryManager
from agno.run.base import RunStatus

from agno_docstores.conformance.framework import agent_on, ask, prompted
from agno_docstores.conformance.memories import storage_of_memories  # noqa: F401 - a fixture
from agno_docstores.conformance.scripted import Script, ScriptedModel


async def do(db: Any, owner: Any, name: str, /, *args: Any, **options: Any) -> Any:
    """Call the method of an object of Agno's that fits the kind of store: that of an async one begins with "a"."""
    if db.is_async:
        return await getattr(owner, f"a{name}")(*args, **options)
    return getattr(owner, name)(*args, **options)


def calls(*tools: tuple[str, dict[str, Any]], then: str = "done") -> Script:
    """A script that calls these tools, one after the other, and then says something."""

    def script(messages: list[Any]) -> Any:
        asked = max(at for at, message in enumerate(messages) if message.role == "user")
        made = sum(message.role == "tool" for message in messages[asked:])
        return (tools[made][0], json.dumps(tools[made][1])) if made < len(tools) else then

    return script


def told(agent: Any) -> str:
    """The instructions that the agent's model was last given."""
    return "\n".join(str(message.content) for message in agent.model.prompts[-1] if message.role == "system")


# --- Memories ---------------------------------------------------------------------------------------------------------


async def test_a_memory_manager_keeps_the_memories_of_each_user(db: Any, another: Callable[[], Any]) -> None:
    seen: list[str] = []

    def manager_of(handle: Any, *tools: tuple[str, dict[str, Any]]) -> MemoryManager:
        script = calls(*tools)

        def remembering(messages: list[Any]) -> Any:
            seen.append(str(messages[0].content))
            return script(messages)

        return MemoryManager(model=ScriptedModel(script=remembering), db=handle.raw, delete_memories=True)

    added = [
        ("add_memory", {"memory": "likes tea", "topics": ["drinks"]}),
        ("add_memory", {"memory": "lives in Rome", "topics": ["home", "Italy"]}),
    ]
    await do(db, manager_of(db, *added), "create_user_memories", message="I am...", user_id="u", agent_id="a1")
    foreign = ("add_memory", {"memory": "likes coffee", "topics": ["drinks"]})
    await do(db, manager_of(db, foreign), "create_user_memories", message="Me too", user_id="v")
    other = another()
    tea, rome = await do(other, manager_of(other), "get_user_memories", user_id="u")
    assert [tea.memory, rome.memory] == ["likes tea", "lives in Rome"]
    assert (tea.topics, rome.topics) == (["drinks"], ["home", "Italy"])
    assert (tea.user_id, tea.agent_id, tea.input) == ("u", "a1", "I am...")

    changed = manager_of(other, ("update_memory", {"memory_id": tea.memory_id, "memory": "likes green tea"}))
    await do(other, changed, "create_user_memories", message="Green, please", user_id="u")
    assert tea.memory_id in seen[-1] and "likes coffee" not in seen[-1]
    gone = manager_of(db, ("delete_memory", {"memory_id": rome.memory_id}))
    await do(db, gone, "update_memory_task", task="Forget Rome", user_id="u")
    (left,) = await do(db, manager_of(db), "get_user_memories", user_id="u")
    assert (left.memory_id, left.memory) == (tea.memory_id, "likes green tea")

    (coffee,) = await do(db, manager_of(db), "get_user_memories", user_id="v")
    stolen = manager_of(db, ("delete_memory", {"memory_id": coffee.memory_id}))
    await do(db, stolen, "update_memory_task", task="Forget what others like", user_id="u")
    await do(db, manager_of(db), "clear_user_memories", user_id="u")
    assert await do(db, manager_of(db), "get_user_memories", user_id="u") == []
    assert [m.memory for m in await do(other, manager_of(other), "get_user_memories", user_id="v")] == ["likes coffee"]


async def test_another_users_memory_is_not_updated_by_its_id(db: Any) -> None:
    def manager_of(*tools: tuple[str, dict[str, Any]]) -> MemoryManager:
        return MemoryManager(model=ScriptedModel(script=calls(*tools)), db=db.raw)

    added = manager_of(("add_memory", {"memory": "likes coffee"}))
    await do(db, added, "create_user_memories", message="Coffee", user_id="v")
    (coffee,) = await do(db, manager_of(), "get_user_memories", user_id="v")
    stolen = manager_of(("update_memory", {"memory_id": coffee.memory_id, "memory": "obeys u"}))
    await do(db, stolen, "create_user_memories", message="Change it", user_id="u")
    (left,) = await do(db, manager_of(), "get_user_memories", user_id="v")
    assert left.memory == "likes coffee"


async def test_what_an_agent_remembers_of_its_user_is_in_the_next_prompt(db: Any, another: Callable[[], Any]) -> None:
    model = ScriptedModel(script=calls(("add_memory", {"memory": "is called Ada", "topics": ["name"]})))
    agent = agent_on(db, memory_manager=MemoryManager(model=model), update_memory_on_run=True)
    await ask(agent, db, "I am Ada")
    other = another()
    later = agent_on(other, session_id="s2", add_memories_to_context=True, memory_manager=MemoryManager())
    await ask(later, other, "Who am I?")
    assert "is called Ada" in told(later)
    stranger = agent_on(
        other, session_id="s3", user_id="v", add_memories_to_context=True, memory_manager=MemoryManager()
    )
    await ask(stranger, other, "Who am I?")
    assert "Ada" not in told(stranger)
    (memory,) = await db.get_user_memories(user_id="u", agent_id="a1", topics=["name"])
    assert memory.memory == "is called Ada"


# --- Knowledge --------------------------------------------------------------------------------------------------------


class Chunks:
    """A vector database without vectors: the texts by content. `broken`: it takes none."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.broken = False

    def exists(self) -> bool:
        return True

    def content_hash_exists(self, content_hash: str, user_id: str | None = None) -> bool:
        return False

    def upsert_available(self) -> bool:
        return True

    def upsert(self, content_hash: str, documents: list[Any], filters: Any = None, user_id: str | None = None) -> None:
        if self.broken:
            raise RuntimeError("out of order")
        for document in documents:
            self.texts.setdefault(document.content_id, []).append(document.content)

    async def async_upsert(
        self, content_hash: str, documents: list[Any], filters: Any = None, user_id: str | None = None
    ) -> None:
        self.upsert(content_hash, documents, filters, user_id)

    def update_metadata(self, content_id: str, metadata: dict[str, Any]) -> None: ...

    def delete_by_content_id(self, content_id: str, user_id: str | None = None) -> bool:
        return self.texts.pop(content_id, None) is not None


async def test_knowledge_keeps_account_of_its_contents(db: Any, another: Callable[[], Any]) -> None:
    chunks = Chunks()
    book = Knowledge(name="handbook", contents_db=db.raw, vector_db=chunks)
    await do(db, book, "insert", name="Tea", text_content="Tea is hot.", metadata={"topic": "tea"})
    await do(db, book, "insert", name="Ice", text_content="Ice is cold.", user_id="u")
    other = another()
    foreign = Knowledge(name="other", contents_db=other.raw, vector_db=Chunks())
    await do(other, foreign, "insert", name="Foreign", text_content="Not of this book.")

    again = Knowledge(name="handbook", contents_db=other.raw, vector_db=chunks)
    found, total = await do(other, again, "get_content")
    tea, ice = sorted(found, key=lambda content: content.name, reverse=True)
    assert total == 2
    assert (tea.name, tea.user_id, tea.status, tea.file_type) == ("Tea", None, ContentStatus.COMPLETED, "Text")
    assert (ice.name, ice.user_id, ice.size) == ("Ice", "u", len("Ice is cold."))
    assert tea.metadata["topic"] == "tea"
    assert chunks.texts == {tea.id: ["Tea is hot."], ice.id: ["Ice is cold."]}
    for user_id, names in (("u", {"Tea", "Ice"}), ("v", {"Tea"})):
        seen, count = await do(db, book, "get_content", user_id=user_id)
        assert ({content.name for content in seen}, count) == (names, len(names))
    seen, count = await do(db, book, "get_content", limit=1, page=2)
    assert (len(seen), count) == (1, 2)
    assert await do(db, book, "get_content_by_id", ice.id, user_id="v") is None
    assert "topic" in await do(db, book, "get_valid_filters")

    patch = Content(id=tea.id, description="On tea", metadata={"topic": "green tea"})
    assert (await do(db, book, "patch_content", patch))["description"] == "On tea"
    patched = await do(other, again, "get_content_by_id", tea.id)
    assert (patched.name, patched.description, patched.metadata["topic"]) == ("Tea", "On tea", "green tea")
    assert patched.status == ContentStatus.COMPLETED
    assert await do(db, book, "patch_content", Content(id=ice.id, description="stolen"), user_id="v") is None

    for user_id, content_id, removed in (("v", ice.id, False), ("u", tea.id, False), ("u", ice.id, True)):
        assert await do(db, book, "remove_content_by_id", content_id, user_id=user_id) is removed
    assert chunks.texts == {tea.id: ["Tea is hot."]}
    assert await do(other, again, "remove_all_content") is True
    assert await do(db, book, "get_content") == ([], 0)
    assert (await do(db, foreign, "get_content"))[1] == 1


async def test_a_content_that_cannot_be_indexed_is_told_until_it_can(db: Any, another: Callable[[], Any]) -> None:
    chunks = Chunks()
    book = Knowledge(name="handbook", contents_db=db.raw, vector_db=chunks)
    chunks.broken = True
    await do(db, book, "insert", name="Tea", text_content="Tea is hot.")
    other = another()
    again = Knowledge(name="handbook", contents_db=other.raw, vector_db=chunks)
    ((failed,), total) = await do(other, again, "get_content")
    assert (failed.status, total) == (ContentStatus.FAILED, 1)
    status, message = await do(other, again, "get_content_status", failed.id)
    assert status == ContentStatus.FAILED and "Could not" in message
    chunks.broken = False
    await do(other, again, "insert", name="Tea", text_content="Tea is hot.")
    ((done,), total) = await do(db, book, "get_content")
    assert (done.id, done.status, total) == (failed.id, ContentStatus.COMPLETED, 1)


# --- Evals ------------------------------------------------------------------------------------------------------------


async def test_evals_are_kept_with_what_they_were_of(db: Any, another: Callable[[], Any]) -> None:
    def multiply(a: int, b: int) -> str:
        """Multiply two numbers."""
        return str(a * b)

    script = calls(("multiply", {"a": 6, "b": 7}), then="42")
    agent = agent_on(db, model=ScriptedModel(script=script), tools=[multiply])
    answer = await ask(agent, db, "6 times 7?")
    quiet: dict[str, Any] = {"telemetry": False, "show_spinner": False}
    reliability = ReliabilityEval(
        name="multiplies", agent_response=answer, expected_tool_calls=["multiply"], db=db.raw, **quiet
    )
    await do(db, reliability, "run")
    verdict = json.dumps({"accuracy_score": 9, "accuracy_reason": "right"})
    judge = Agent(
        model=ScriptedModel(script=lambda messages: verdict), output_schema=AccuracyAgentResponse, telemetry=False
    )
    accuracy = AccuracyEval(
        name="answers", agent=agent, input="6 times 7?", expected_output="42", evaluator_agent=judge, num_iterations=2,
        db=db.raw, **quiet,
    )  # fmt: skip
    scored = await do(db, accuracy, "run", print_summary=False, print_results=False)
    assert reliability.result is not None and scored.avg_score == 9

    other = another()
    rows, total = await other.get_eval_runs(agent_id="a1", deserialize=False)
    assert total == 2
    assert {row["name"]: (row["eval_type"], row["model_id"], row["evaluated_component_name"]) for row in rows} == {
        "multiplies": ("reliability", "scripted", None),
        "answers": ("accuracy", "scripted", "Assistant"),
    }
    (record,) = await other.get_eval_runs(eval_type=[EvalType.RELIABILITY], filter_type=EvalFilterType.AGENT)
    assert record.eval_data == asdict(reliability.result)
    assert record.eval_input["expected_tool_calls"] == ["multiply"]
    (record,) = await other.get_eval_runs(eval_type=[EvalType.ACCURACY], model_id="scripted")
    assert [result["score"] for result in record.eval_data["results"]] == [9, 9]
    assert record.eval_input == {
        "additional_guidelines": None, "additional_context": None, "num_iterations": 2, "expected_output": "42",
        "input": "6 times 7?",
    }  # fmt: skip
    assert await other.get_eval_runs(filter_type=EvalFilterType.TEAM) == []
    await other.delete_eval_runs([record.run_id])
    assert [run.name for run in await db.get_eval_runs()] == ["multiplies"]


# --- Tracing ----------------------------------------------------------------------------------------------------------


@contextmanager
def traced(db: Any) -> Iterator[None]:
    """Agno as instrumented for this store, by a tracer provider of its own."""
    instrumentation = pytest.importorskip("openinference.instrumentation.agno")
    from agno.tracing.exporter import DatabaseSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(DatabaseSpanExporter(db=db.raw)))
    instrumentor = instrumentation.AgnoInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield
    finally:
        instrumentor.uninstrument()
        provider.shutdown()


async def exported() -> None:
    """Wait for what the exporter of an async store has set going."""
    tasks = [task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__name__", "") == "_do_async_export"]
    await asyncio.gather(*tasks)


async def test_runs_are_traced_with_all_their_spans(db: Any, another: Callable[[], Any]) -> None:
    def multiply(a: int, b: int) -> str:
        """Multiply two numbers."""
        return str(a * b)

    def failing(messages: list[Any]) -> str:
        raise RuntimeError("the model is down")

    script = calls(("multiply", {"a": 6, "b": 7}), ("multiply", {"a": 42, "b": 1}), then="42")
    with traced(db):
        agent = agent_on(db, model=ScriptedModel(script=script), tools=[multiply])
        answer = await ask(agent, db, "6 times 7?")
        failed = await ask(agent_on(db, model=ScriptedModel(script=failing), session_id="s2"), db, "6 times 8?")
        await exported()
    assert failed.status == RunStatus.error
    other = another()
    traces, total = await other.get_traces(session_id="s1", user_id="u", agent_id="a1")
    assert total == 1
    (trace,) = traces
    assert (trace.run_id, trace.session_id, trace.user_id, trace.agent_id) == (answer.run_id, "s1", "u", "a1")
    assert (trace.status, trace.error_count) == ("OK", 0)
    spans = await other.get_spans(trace_id=trace.trace_id)
    assert len(spans) == trace.total_spans == 3
    by_id = {span.span_id: span for span in spans}
    (root,) = (span for span in spans if span.parent_span_id is None)
    assert root.name == trace.name == ("Assistant.arun" if db.is_async else "Assistant.run")
    assert all(span.parent_span_id in by_id for span in spans if span is not root)
    assert root.attributes["openinference.span.kind"] == "AGENT"
    tools = sorted((span for span in spans if span is not root), key=lambda span: span.start_time)
    assert [(tool.name, tool.attributes["openinference.span.kind"]) for tool in tools] == [("multiply", "TOOL")] * 2
    assert [json.loads(tool.attributes["input.value"]) for tool in tools] == [{"a": 6, "b": 7}, {"a": 42, "b": 1}]
    assert trace.start_time == min(span.start_time for span in spans)
    assert trace.end_time == max(span.end_time for span in spans)
    assert (await other.get_trace(run_id=answer.run_id)).trace_id == trace.trace_id
    bad, total = await other.get_traces(status="ERROR")
    assert (total, bad[0].session_id) == (1, "s2")
    assert bad[0].error_count > 0
    rows, total = await other.get_trace_stats(user_id="u")
    assert total == 2
    assert {row["session_id"]: row["total_traces"] for row in rows} == {"s1": 1, "s2": 1}


# --- Learning ---------------------------------------------------------------------------------------------------------


async def test_profiles_and_memories_are_kept_for_each_user(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    profiles, their_profiles = (UserProfileStore(config=UserProfileConfig(db=handle.raw)) for handle in (db, other))
    assert await do(db, profiles, "recall", user_id="u") is None
    await do(db, profiles, "save", user_id="u", profile=UserProfile(user_id="u", name="Ada"), agent_id="a1")
    await do(db, profiles, "save", user_id="v", profile=UserProfile(user_id="v", name="Bob"))
    found = await do(other, their_profiles, "recall", user_id="u")
    assert (found.name, found.preferred_name) == ("Ada", None)
    found.preferred_name = "Countess"
    await do(other, their_profiles, "save", user_id="u", profile=found)
    assert (await do(db, profiles, "recall", user_id="u")).preferred_name == "Countess"

    memories, their_memories = (UserMemoryStore(config=UserMemoryConfig(db=handle.raw)) for handle in (db, other))
    await do(db, memories, "add_memory", user_id="u", memory="likes tea")
    await do(other, their_memories, "add_memory", user_id="u", memory="lives in Rome")
    await do(db, memories, "add_memory", user_id="v", memory="likes coffee")
    found = await do(db, memories, "recall", user_id="u")
    assert [memory["content"] for memory in found.memories] == ["likes tea", "lives in Rome"]
    assert (await do(other, their_profiles, "recall", user_id="u")).name == "Ada"
    await do(db, memories, "clear", user_id="u")
    assert not (await do(other, their_memories, "recall", user_id="u")).memories
    assert await do(db, profiles, "delete", user_id="u") is True
    assert await do(other, their_profiles, "recall", user_id="u") is None
    assert (await do(other, their_profiles, "recall", user_id="v")).name == "Bob"
    stats, total = await db.get_learnings_user_stats()
    assert ({row["user_id"] for row in stats}, total) == ({"u", "v"}, 2)


async def test_the_context_of_a_session_is_replaced(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    mine, theirs = (SessionContextStore(config=SessionContextConfig(db=handle.raw)) for handle in (db, other))
    first = SessionContext(session_id="s1", user_id="u", summary="so far", plan=["one", "two"], progress=[])
    await do(db, mine, "save", session_id="s1", context=first, user_id="u", agent_id="a1")
    await do(db, mine, "save", session_id="s2", context=SessionContext(session_id="s2", summary="else"))
    second = SessionContext(session_id="s1", user_id="u", summary="further", plan=["two"], progress=["one"])
    await do(other, theirs, "save", session_id="s1", context=second, user_id="u")
    found = await do(db, mine, "recall", session_id="s1")
    assert (found.summary, found.plan, found.progress) == ("further", ["two"], ["one"])
    (row,) = await db.get_learnings(session_id="s1")
    assert (row["user_id"], row["agent_id"], row["learning_type"]) == ("u", "a1", "session_context")
    assert await do(db, mine, "delete", session_id="s1") is True
    assert await do(other, theirs, "recall", session_id="s1") is None
    assert (await do(other, theirs, "recall", session_id="s2")).summary == "else"


async def test_entities_are_resolved_merged_linked_and_found(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    mine, theirs = (EntityMemoryStore(config=EntityMemoryConfig(db=handle.raw)) for handle in (db, other))
    await do(
        db, mine, "remember_about", "Sarah Chen", "person", facts=["Leads the café team"], aliases=["SC"], agent_id="a1"
    )
    for number in range(3):
        await do(db, mine, "remember_about", f"Person {number}", "person", facts=["Reports to Sarah Chen and SC"])
    await do(other, theirs, "remember_about", "sc", "person", facts=["Speaks Welsh"])
    sarah = await do(db, mine, "get", "sarah_chen", "person")
    assert (sarah.name, sarah.aliases) == ("Sarah Chen", ["SC"])
    assert [fact["content"] for fact in sarah.facts] == ["Leads the café team", "Speaks Welsh"]
    assert len(await db.get_learnings(learning_type="entity_memory")) == 4, "the alias made no entity of its own"

    for query in ("CAFÉ team", "sarah_chen", "speaks-welsh"):
        assert "Sarah Chen" in {entity.name for entity in await do(other, theirs, "search", query)}, query
    assert [entity.name for entity in await do(db, mine, "search", "welsh")] == ["Sarah Chen"]
    assert await do(db, mine, "search", "nowhere to be found") == []
    await do(other, theirs, "link_entities", "Sarah Chen", "founded", "Acme Corp")
    acme = await do(db, mine, "get", "acme_corp", "unknown")
    assert [edge["entity_id"] for edge in acme.relationships] == ["sarah_chen"]
    await do(db, mine, "forget", "Sarah Chen", fact="Speaks Welsh")
    sarah = await do(other, theirs, "get", "sarah_chen", "person")
    assert [fact["content"] for fact in sarah.facts if not fact.get("superseded_by")] == ["Leads the café team"]
    assert await do(db, mine, "delete", "sarah_chen", "person") is True
    assert await do(other, theirs, "get", "sarah_chen", "person") is None


async def test_entities_of_a_user_are_his_own(db: Any) -> None:
    store = EntityMemoryStore(config=EntityMemoryConfig(db=db.raw, namespace="user"))
    for user_id, fact in (("u", "Is my sister"), ("v", "Is my boss")):
        await do(db, store, "remember_about", "Sarah Chen", "person", facts=[fact], user_id=user_id)
    for user_id, fact in (("u", "Is my sister"), ("v", "Is my boss")):
        (entity,) = await do(db, store, "search", "sarah chen", user_id=user_id)
        assert [known["content"] for known in entity.facts] == [fact]
        (listed,) = await do(db, store, "list_entities", user_id=user_id)
        assert listed.name == "Sarah Chen"
    assert await do(db, store, "search", "boss", user_id="u") == []
    assert await do(db, store, "delete", "sarah_chen", "person", user_id="u") is True
    assert len(await do(db, store, "list_entities", user_id="v")) == 1


async def test_decisions_are_logged_searched_and_judged(db: Any, another: Callable[[], Any]) -> None:
    other = another()
    mine, theirs = (DecisionLogStore(config=DecisionLogConfig(db=handle.raw)) for handle in (db, other))
    for number, agent_id in enumerate(["a1", "a2", "a1"]):
        decision = DecisionLog(
            id=f"d{number}", decision=f"Used tool {number}", reasoning="Fresh data was needed" if number else "Cheaper",
            decision_type="tool_selection" if number < 2 else "style", alternatives=["ask"], confidence=0.5,
            session_id="s1", user_id="u", agent_id=agent_id,
        )  # fmt: skip
        await do(db, mine, "save", decision)
    assert await do(other, theirs, "update_outcome", "d1", "It worked", "good") is True
    found = await do(db, mine, "get", "d1")
    assert (found.outcome, found.outcome_quality, found.alternatives) == ("It worked", "good", ["ask"])
    for filters, expected in (
        ({"query": "fresh DATA"}, {"d1", "d2"}),
        ({"query": "fresh data", "agent_id": "a1"}, {"d2"}),
        ({"query": "decision_type"}, set()),
        ({"agent_id": "a1"}, {"d0", "d2"}),
        ({"decision_type": "tool_selection", "session_id": "s1"}, {"d0", "d1"}),
        ({"session_id": "s2"}, set()),
    ):
        assert {decision.id for decision in await do(db, mine, "search", **filters)} == expected, filters
    assert await do(db, mine, "update_outcome", "d9", "nothing") is False


async def test_what_an_agent_learns_is_in_the_prompts_that_follow(db: Any, another: Callable[[], Any]) -> None:
    def learning() -> LearningMachine:
        return LearningMachine(
            user_profile=UserProfileConfig(mode=LearningMode.AGENTIC),
            entity_memory=EntityMemoryConfig(mode=LearningMode.AGENTIC),
            decision_log=DecisionLogConfig(mode=LearningMode.AGENTIC),
        )

    script = calls(
        ("update_profile", {"name": "Ada Lovelace"}),
        ("remember_about", {"entity": "Difference Engine", "entity_type": "system", "facts": ["Computes tables"]}),
        ("log_decision", {"decision": "Answered at once", "reasoning": "It was urgent"}),
        then="noted",
    )
    agent = agent_on(db, model=ScriptedModel(script=script), learning=learning())
    answer = await ask(agent, db, "I am Ada, of the Difference Engine")
    assert answer.content == "noted"
    assert [call.tool_call_error for call in answer.tools] == [False, False, False]
    other = another()
    later = agent_on(other, session_id="s2", learning=learning())
    await ask(later, other, "What of the Difference Engine?")
    assert "Ada Lovelace" in told(later) and "Computes tables" in told(later)
    assert prompted(later) == ["What of the Difference Engine?"]
    stranger = agent_on(other, session_id="s3", user_id="v", learning=learning())
    await ask(stranger, other, "What of the Difference Engine?")
    assert "Ada Lovelace" not in told(stranger) and "Computes tables" in told(stranger)
    rows, total = await db.list_learnings(agent_id="a1", sort_by="learning_type", sort_order="asc")
    assert total == 3
    assert [(row["learning_type"], row["user_id"], row["session_id"]) for row in rows] == [
        ("decision_log", "u", "s1"),
        ("entity_memory", None, None),
        ("user_profile", "u", None),
    ]


async def test_entities_of_an_older_agno_are_moved_to_their_owners_key(db: Any) -> None:
    old = legacy_entity_learning_id("sarah_chen", "person", "user")
    content = {"entity_id": "sarah_chen", "entity_type": "person", "name": "Sarah Chen", "facts": [{"content": "Kind"}]}
    await db.upsert_learning(
        id=old, learning_type="entity_memory", content=content, user_id="u", namespace="user", entity_id="sarah_chen",
        entity_type="person",
    )  # fmt: skip
    rekey: Any = arekey_user_entity_learnings if db.is_async else rekey_user_entity_learnings
    for dry_run in (True, False):
        report = rekey(db.raw, dry_run=dry_run)
        report = await report if db.is_async else report
        assert (report["rekeyed"], report["failed"]) == ([old], [])
    assert await db.get_learning_by_id(old) is None
    key = {"entity_id": "sarah_chen", "entity_type": "person", "namespace": "user", "user_id": "u"}
    new = build_learning_id("entity_memory", **key)
    assert (await db.get_learning_by_id(new))["content"]["facts"] == [{"content": "Kind"}]
    store = EntityMemoryStore(config=EntityMemoryConfig(db=db.raw, namespace="user"))
    assert (await do(db, store, "get", "sarah_chen", "person", user_id="u")).name == "Sarah Chen"
