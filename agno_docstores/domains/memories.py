"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Memories:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def upsert_user_memory(self, memory: Any, deserialize: Any = True) -> Any:
        raise NotImplementedError

    async def upsert_memories(self, memories: Any, deserialize: Any = True, preserve_updated_at: Any = False) -> Any:
        raise NotImplementedError

    async def get_user_memory(self, memory_id: Any, deserialize: Any = True, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def get_user_memories(
        self,
        user_id: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        topics: Any = None,
        search_content: Any = None,
        limit: Any = None,
        page: Any = None,
        sort_by: Any = None,
        sort_order: Any = None,
        deserialize: Any = True,
    ) -> Any:
        raise NotImplementedError

    async def get_user_memory_stats(self, limit: Any = None, page: Any = None, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def get_all_memory_topics(self, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def delete_user_memory(self, memory_id: Any, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def delete_user_memories(self, memory_ids: Any, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def clear_memories(self) -> Any:
        raise NotImplementedError
