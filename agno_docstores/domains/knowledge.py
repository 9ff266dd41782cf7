"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Knowledge:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def get_knowledge_content(self, id: Any, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def get_knowledge_contents(
        self,
        limit: Any = None,
        page: Any = None,
        sort_by: Any = None,
        sort_order: Any = None,
        linked_to: Any = None,
        user_id: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def upsert_knowledge_content(self, knowledge_row: Any) -> Any:
        raise NotImplementedError

    async def delete_knowledge_content(self, id: Any, user_id: Any = None) -> Any:
        raise NotImplementedError
