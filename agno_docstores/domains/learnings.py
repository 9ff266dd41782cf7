"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Learnings:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def upsert_learning(
        self,
        id: Any,
        learning_type: Any,
        content: Any,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        session_id: Any = None,
        namespace: Any = None,
        entity_id: Any = None,
        entity_type: Any = None,
        metadata: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def get_learning(
        self,
        learning_type: Any,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        session_id: Any = None,
        namespace: Any = None,
        entity_id: Any = None,
        entity_type: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def get_learnings(
        self,
        learning_type: Any = None,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        session_id: Any = None,
        namespace: Any = None,
        entity_id: Any = None,
        entity_type: Any = None,
        limit: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def search_learnings(
        self,
        query: Any,
        learning_type: Any = None,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        workflow_id: Any = None,
        session_id: Any = None,
        namespace: Any = None,
        entity_id: Any = None,
        entity_type: Any = None,
        limit: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def get_learning_by_id(self, id: Any) -> Any:
        raise NotImplementedError

    async def list_learnings(
        self,
        learning_type: Any = None,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        session_id: Any = None,
        namespace: Any = None,
        entity_id: Any = None,
        entity_type: Any = None,
        include_global: Any = False,
        limit: Any = 100,
        page: Any = 1,
        sort_by: Any = None,
        sort_order: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def update_learning(self, id: Any, content: Any, metadata: Any = None) -> Any:
        raise NotImplementedError

    async def delete_learning(self, id: Any) -> Any:
        raise NotImplementedError

    async def delete_user_learnings(self, user_id: Any, learning_type: Any = None) -> Any:
        raise NotImplementedError

    async def get_learnings_user_stats(
        self,
        learning_type: Any = None,
        limit: Any = None,
        page: Any = None,
        user_id: Any = None,
        sort_by: Any = None,
        sort_order: Any = None,
    ) -> Any:
        raise NotImplementedError
