"""Schema versions (contract 1.1): what Agno's migrations ask before they touch a table."""

from __future__ import annotations

from datetime import UTC, datetime

from agno_docstores.kernel import Kernel
from agno_docstores.keys import check_id
from agno_docstores.port import Expect, Put, Ref
from agno_docstores.schema import VERSIONS

CURRENT = "3.0.0"  # the schema of Agno 3: sessions and runs apart, which is how these stores always kept them


class Versions:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    async def get_latest_schema_version(self, table_name: str) -> str:
        """The version stamped on a table; "3.0.0" if none is: nothing older was ever written here. 1 read."""
        stored = await self.kernel.get(Ref(VERSIONS.name, check_id("table_name", table_name)))
        version = stored.fields.get("version") if stored is not None else None
        return version if isinstance(version, str) else CURRENT

    async def upsert_schema_version(self, table_name: str, version: str) -> None:
        """Stamp a table. `created_at` stays, times are ISO 8601 text in UTC. 1 read, 1 write."""
        ref = Ref(VERSIONS.name, check_id("table_name", table_name))
        now = datetime.fromtimestamp(self.kernel.now(), UTC).isoformat()

        async def attempt(fresh: bool) -> None:
            stored = await self.kernel.get(ref)
            created = stored.fields.get("created_at") if stored is not None else now
            fields = {"version": version, "created_at": created, "updated_at": now}
            await self.kernel.commit([Put(ref, fields, {}, stored.rev if stored is not None else Expect.ABSENT)])

        await self.kernel.transact(f"stamp of {table_name!r}", attempt)
