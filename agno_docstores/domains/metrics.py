"""Skeleton."""

from __future__ import annotations

from typing import Any

from agno_docstores.kernel import Kernel


class Metrics:
    def __init__(self, kernel: Kernel, histories: Any) -> None:
        self.kernel = kernel
        self.histories = histories

    async def get_metrics(self, starting_date: Any = None, ending_date: Any = None, user_id: Any = None) -> Any:
        raise NotImplementedError

    async def calculate_metrics(self) -> Any:
        raise NotImplementedError
