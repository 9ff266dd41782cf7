"""Abstract methods of `BaseDb` that are not served yet: they raise `NotImplementedError`, which Agno reads as "this
store cannot", where an empty answer would be read as data. Each line goes when its domain is built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, cast

from agno.db.base import AsyncBaseDb, BaseDb

Method = TypeVar("Method", bound=Callable[..., Any])


def unserved(method: Method) -> Method:
    """The method's signature with a body that says that this store does not serve it."""

    def refuse(self: object, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} does not serve {method.__name__} yet")

    async def arefuse(self: object, *args: Any, **kwargs: Any) -> Any:
        refuse(self)

    wrapped = functools.wraps(method)(arefuse if inspect.iscoroutinefunction(method) else refuse)
    wrapped.__isabstractmethod__ = False  # type: ignore[attr-defined]
    return cast(Method, wrapped)


class Unserved:
    calculate_metrics = unserved(BaseDb.calculate_metrics)
    clear_memories = unserved(BaseDb.clear_memories)
    create_eval_run = unserved(BaseDb.create_eval_run)
    create_span = unserved(BaseDb.create_span)
    create_spans = unserved(BaseDb.create_spans)
    delete_eval_runs = unserved(BaseDb.delete_eval_runs)
    delete_knowledge_content = unserved(BaseDb.delete_knowledge_content)
    delete_learning = unserved(BaseDb.delete_learning)
    delete_user_memories = unserved(BaseDb.delete_user_memories)
    delete_user_memory = unserved(BaseDb.delete_user_memory)
    get_all_memory_topics = unserved(BaseDb.get_all_memory_topics)
    get_eval_run = unserved(BaseDb.get_eval_run)
    get_eval_runs = unserved(BaseDb.get_eval_runs)
    get_knowledge_content = unserved(BaseDb.get_knowledge_content)
    get_knowledge_contents = unserved(BaseDb.get_knowledge_contents)
    get_learning = unserved(BaseDb.get_learning)
    get_learnings = unserved(BaseDb.get_learnings)
    get_metrics = unserved(BaseDb.get_metrics)
    get_span = unserved(BaseDb.get_span)
    get_spans = unserved(BaseDb.get_spans)
    get_trace = unserved(BaseDb.get_trace)
    get_trace_stats = unserved(BaseDb.get_trace_stats)
    get_traces = unserved(BaseDb.get_traces)
    get_user_memories = unserved(BaseDb.get_user_memories)
    get_user_memory = unserved(BaseDb.get_user_memory)
    get_user_memory_stats = unserved(BaseDb.get_user_memory_stats)
    rename_eval_run = unserved(BaseDb.rename_eval_run)
    upsert_knowledge_content = unserved(BaseDb.upsert_knowledge_content)
    upsert_learning = unserved(BaseDb.upsert_learning)
    upsert_memories = unserved(BaseDb.upsert_memories)
    upsert_trace = unserved(BaseDb.upsert_trace)
    upsert_user_memory = unserved(BaseDb.upsert_user_memory)


class AsyncUnserved:
    calculate_metrics = unserved(AsyncBaseDb.calculate_metrics)
    clear_memories = unserved(AsyncBaseDb.clear_memories)
    create_eval_run = unserved(AsyncBaseDb.create_eval_run)
    create_span = unserved(AsyncBaseDb.create_span)
    create_spans = unserved(AsyncBaseDb.create_spans)
    delete_eval_runs = unserved(AsyncBaseDb.delete_eval_runs)
    delete_knowledge_content = unserved(AsyncBaseDb.delete_knowledge_content)
    delete_learning = unserved(AsyncBaseDb.delete_learning)
    delete_user_memories = unserved(AsyncBaseDb.delete_user_memories)
    delete_user_memory = unserved(AsyncBaseDb.delete_user_memory)
    get_all_memory_topics = unserved(AsyncBaseDb.get_all_memory_topics)
    get_eval_run = unserved(AsyncBaseDb.get_eval_run)
    get_eval_runs = unserved(AsyncBaseDb.get_eval_runs)
    get_knowledge_content = unserved(AsyncBaseDb.get_knowledge_content)
    get_knowledge_contents = unserved(AsyncBaseDb.get_knowledge_contents)
    get_learning = unserved(AsyncBaseDb.get_learning)
    get_learnings = unserved(AsyncBaseDb.get_learnings)
    get_metrics = unserved(AsyncBaseDb.get_metrics)
    get_span = unserved(AsyncBaseDb.get_span)
    get_spans = unserved(AsyncBaseDb.get_spans)
    get_trace = unserved(AsyncBaseDb.get_trace)
    get_trace_stats = unserved(AsyncBaseDb.get_trace_stats)
    get_traces = unserved(AsyncBaseDb.get_traces)
    get_user_memories = unserved(AsyncBaseDb.get_user_memories)
    get_user_memory = unserved(AsyncBaseDb.get_user_memory)
    get_user_memory_stats = unserved(AsyncBaseDb.get_user_memory_stats)
    rename_eval_run = unserved(AsyncBaseDb.rename_eval_run)
    upsert_knowledge_content = unserved(AsyncBaseDb.upsert_knowledge_content)
    upsert_learning = unserved(AsyncBaseDb.upsert_learning)
    upsert_trace = unserved(AsyncBaseDb.upsert_trace)
    upsert_user_memory = unserved(AsyncBaseDb.upsert_user_memory)
