"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Traces:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def upsert_trace(self, trace: Any) -> Any:
        raise NotImplementedError

    async def get_trace(self, trace_id: Any = None, run_id: Any = None) -> Any:
        raise NotImplementedError

    async def get_traces(
        self,
        run_id: Any = None,
        session_id: Any = None,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        workflow_id: Any = None,
        status: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        limit: Any = 20,
        page: Any = 1,
        filter_expr: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def get_trace_stats(
        self,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        workflow_id: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        limit: Any = 20,
        page: Any = 1,
        filter_expr: Any = None,
        group_by: Any = "session",
    ) -> Any:
        raise NotImplementedError

    async def create_span(self, span: Any) -> Any:
        raise NotImplementedError

    async def create_spans(self, spans: Any) -> Any:
        raise NotImplementedError

    async def get_span(self, span_id: Any) -> Any:
        raise NotImplementedError

    async def get_spans(self, trace_id: Any = None, parent_span_id: Any = None, limit: Any = 1000) -> Any:
        raise NotImplementedError

    async def get_span_stats(
        self,
        agent_id: Any = None,
        team_id: Any = None,
        workflow_id: Any = None,
        start_time: Any = None,
        end_time: Any = None,
        name: Any = None,
        span_type: Any = None,
        limit: Any = 20,
        page: Any = 1,
        sort_by: Any = "total_calls",
        sort_order: Any = "desc",
    ) -> Any:
        raise NotImplementedError
