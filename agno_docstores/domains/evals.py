"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Evals:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def create_eval_run(self, eval_run: Any) -> Any:
        raise NotImplementedError

    async def get_eval_run(self, eval_run_id: Any, deserialize: Any = True, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def get_eval_runs(
        self,
        limit: Any = None,
        page: Any = None,
        sort_by: Any = None,
        sort_order: Any = None,
        agent_id: Any = None,
        team_id: Any = None,
        workflow_id: Any = None,
        model_id: Any = None,
        filter_type: Any = None,
        eval_type: Any = None,
        deserialize: Any = True,
        user_id: Any = None,
    ) -> Any:
        raise NotImplementedError

    async def rename_eval_run(self, eval_run_id: Any, name: Any, deserialize: Any = True, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def delete_eval_run(self, eval_run_id: str) -> None:
        raise NotImplementedError

    async def delete_eval_runs(self, eval_run_ids: Any, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def update_eval_run_user_id(self, eval_run_id: Any, user_id: Any) -> Any:
        raise NotImplementedError
