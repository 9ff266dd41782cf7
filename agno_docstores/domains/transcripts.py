"""Transcripts of external agents, such as Claude's (contract 1.20), over the kernel.

Invariants: those of `transcript_records`; no part of a transcript's name is ever taken for another's; what an Agno
session has added nobody reads when that has ended.
"""

from __future__ import annotations

from typing import Any

from agno_docstores.errors import InvalidIdError
from agno_docstores.history import Histories
from agno_docstores.kernel import Kernel, Query
from agno_docstores.keys import check_id, encodable
from agno_docstores.port import Eq
from agno_docstores.schema import TRANSCRIPTS
from agno_docstores.transcript_records import Entry, Name, append, entries_of, project_of, remove, with_entries

Row = dict[str, Any]


class Transcripts:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.ends = histories.ends

    async def append_transcript_entries(
        self,
        framework: str,
        project_key: str,
        session_id: str,
        entries: list[Row],
        agno_session_id: str,
        subpath: str | None = None,
    ) -> None:
        """Add entries to a transcript, in their order, after those that are there; an entry whose "uuid" is there stays
        as it is. `subpath` None: the main transcript.

        Up to 45 entries, or 800,000 characters, are stored together or not at all; of more, what is stored when it
        fails is the first part, and repeating the call goes on (entries without uuid are then added again). They go
        with the Agno session. Raises `InvalidIdError`, `UnserializableValueError` before anything is written. Requests,
        for each part: 1, at a process's first write 2 more; on MongoDB 3 or 4; 1 more where some are there already.
        """
        if not entries:
            return
        name = _name(framework, project_key, session_id, subpath)
        checked = [Entry.of(entry) for entry in entries]
        await append(self.kernel, self.ends, name, check_id("agno_session_id", agno_session_id), checked)

    async def get_transcript_entries(
        self, framework: str, project_key: str, session_id: str, subpath: str | None = None
    ) -> list[Row]:
        """The entries of a transcript in order, without those of Agno sessions that have expired. Strongly consistent.
        1 request, 1 for each page of them, and 1 for whether the sessions live, at the same time."""
        return await entries_of(self.kernel, self.ends, _name(framework, project_key, session_id, subpath))

    async def list_transcript_sessions(self, framework: str, project_key: str) -> list[Row]:
        """The main transcripts of a project: "session_id" and "mtime", the time of the last append (epoch ms), without
        what Agno sessions that have expired added. Eventually consistent on DynamoDB. 1 request for each page
        (DynamoDB: 2), and 1 or more for whether the sessions live that added to them, the most that the store reads at
        once."""
        names = (check_id("framework", framework), check_id("project_key", project_key))
        query = Query(TRANSCRIPTS, (Eq("listed", project_of(*names)),), "session_id")
        found = await with_entries(self.kernel, self.ends, query)
        return [{"session_id": stored.fields["session_id"], "mtime": mtime} for stored, mtime in found]

    async def list_transcript_subpaths(self, framework: str, project_key: str, session_id: str) -> list[str]:
        """The subpaths of a session that have a transcript, sorted, without the main one and without those of Agno
        sessions that have expired. Strongly consistent. 2 requests."""
        name = _name(framework, project_key, session_id, None)
        query = Query(TRANSCRIPTS, (Eq("conversation", name.conversation),), "subpath")
        subpaths = [str(stored.fields["subpath"]) for stored, _ in await with_entries(self.kernel, self.ends, query)]
        return sorted(subpath for subpath in subpaths if subpath)

    async def delete_transcript(
        self, framework: str, project_key: str, session_id: str, subpath: str | None = None
    ) -> None:
        """Delete the transcript of one subpath ("": the main one), or with None all of them. From its first write on
        nobody reads it; an interrupted deletion is finished by its repetition. 1 request, and 5 or 6 for each."""
        name = _name(framework, project_key, session_id, subpath)
        if subpath is not None:
            await remove(self.kernel, name.ref)
            return
        for transcript in await self.kernel.page(Query(TRANSCRIPTS, (Eq("conversation", name.conversation),))):
            await remove(self.kernel, transcript.ref)


def _name(framework: Any, project_key: Any, session_id: Any, subpath: Any) -> Name:
    """Raises `InvalidIdError`."""
    subpath = subpath or ""
    if not isinstance(subpath, str) or not encodable(subpath):
        raise InvalidIdError("subpath", subpath)
    return Name(
        check_id("framework", framework),
        check_id("project_key", project_key),
        check_id("session_id", session_id),
        subpath,
    )
