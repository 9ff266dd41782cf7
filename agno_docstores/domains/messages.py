"""The history of a session, read in part: its last messages, tool calls and exchanges, beyond `BaseDb`.

Invariants: what is answered is what Agno's own method says of the session loaded whole, because it is Agno's method
that answers, on the runs that it would have chosen from; of the others only those are read that stand between them,
newest first. A history is read by its owner only (a user sees his own sessions, not the unowned); of a session that is
not there, or not his, it is empty.

Which runs a part is taken from is told by their columns first, and by their data then. Columns follow the data, with
exceptions: a run keeps the component and time that it was first stored with, and a patch of its data moves no parent.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agno.db.base import SessionType
from agno.db.utils import deserialize_session
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.run.base import HISTORY_SKIP_STATUSES, RunStatus
from agno.run.team import TeamRunOutput
from agno.session import AgentSession, TeamSession, WorkflowSession
from agno.session.workflow import WorkflowChatInteraction

from agno_docstores.codec import NULL
from agno_docstores.domains.listing import between
from agno_docstores.history import Histories
from agno_docstores.kernel import Kernel
from agno_docstores.keys import check_id, check_time
from agno_docstores.port import Condition, Eq, In, NotIn, Stored
from agno_docstores.session_records import Session, readable

#: Runs of the first page, where nothing tells how many it takes.
SOME_RUNS = 5
#: Runs that are looked at for a system message before the whole history is.
FIRST_RUNS = 3
#: The filters that a session's own `get_messages` has, besides those that all have.
FILTERS: dict[type[Session], tuple[str, ...]] = {
    AgentSession: ("agent_id", "team_id"),
    TeamSession: ("team_id", "member_ids", "skip_member_messages"),
    WorkflowSession: ("agent_id", "team_id", "skip_member_messages"),
}
#: What a workflow's session takes for its own runs: those whose data name neither an agent nor a team. (A run stored as
#: an agent's without an id is one of them, so the type of a run does not tell.)
OF_A_WORKFLOW: tuple[Condition, ...] = (In("agent_id", (None, "")), In("team_id", (None, "")))
NO_BUDGET = sys.maxsize


class Messages:
    def __init__(self, kernel: Kernel, histories: Histories) -> None:
        self.kernel = kernel
        self.histories = histories

    async def get_messages(
        self,
        session_id: str,
        last_n: int | None = None,
        *,
        since: int | float | None = None,
        until: int | float | None = None,
        max_messages: int | None = None,
        max_chars: int | None = None,
        agent_id: str | None = None,
        team_id: str | None = None,
        member_ids: list[str] | None = None,
        skip_roles: list[str] | None = None,
        skip_statuses: list[RunStatus] | None = None,
        skip_history_messages: bool = True,
        skip_member_messages: bool = True,
        user_id: str | None = None,
    ) -> list[Message]:
        """The messages of a session, oldest first, as the `get_messages` of the loaded session has them: `last_n` is
        its `last_n_runs`, `max_messages` its `limit`, the other filters have its names and defaults; `ValueError` for
        one that this type of session does not have. Empty if there is no such session of this user.

        `since`, `until`: only runs created then or between, in epoch seconds; the last n are counted among those.
        Budgets keep whole messages, the newest that fit, up to the first that does not. As Agno's `limit` has it, the
        system message (the first of all runs chosen) comes first and counts, and a tool's result whose call was cut off
        is left out. `max_chars` counts a message's content, and its tool calls, what is not text as compact JSON;
        a system message that is longer by itself is left out.

        Linearizable. Requests: 1, and none more if this handle has the history and nothing changed; else 1 for
        `last_n`, 1 or a few for a budget (their pages double), and 1 more for the system message, unless `skip_roles`
        has "system". A history that does not begin with one is loaded whole for it, once. Nothing but filters, and
        `member_ids` (a member's run may stand in several places): the whole history. `since` and `until`: order and
        time of runs may differ, so all are looked at, by their headers where the store cannot filter.
        """
        filters = {
            "agent_id": agent_id,
            "team_id": team_id,
            "member_ids": member_ids,
            "skip_member_messages": skip_member_messages,
            "skip_roles": skip_roles,
            "skip_statuses": skip_statuses,
            "skip_history_messages": skip_history_messages,
        }
        found = await self._find(session_id, user_id)
        if found is None:
            return []
        session, head = found
        asked = Asked.of(session, filters, last_n, max_messages, max_chars)
        where = (*asked.columns(), *_between(since, until))
        if member_ids:
            await self._load(session, head, _between(since, until))
        elif asked.bounded or since is not None or until is not None:
            await self._load_tail(session, head, where, asked, few=since is not None or until is not None)
        else:
            await self._load(session, head)
        return asked.answer(session)

    async def get_chat_history(
        self, session_id: str, last_n_runs: int | None = None, *, user_id: str | None = None
    ) -> list[Message] | list[WorkflowChatInteraction]:
        """What user and assistant said, whatever became of the runs: the `get_chat_history` of the loaded session. Of a
        workflow: input and output of each run. Cost as `get_messages` with `last_n`."""
        found = await self._find(session_id, user_id)
        if found is None:
            return []
        session, head = found
        if isinstance(session, WorkflowSession):
            await self._load_last(session, head, last_n_runs, OF_A_WORKFLOW, lambda run: True)
        else:
            await self._load_last(session, head, last_n_runs, (Eq("parent_run_id", None),), _top_level)
        history: list[Message] | list[WorkflowChatInteraction] = session.get_chat_history(last_n_runs)
        return history

    async def get_tool_calls(
        self, session_id: str, num_calls: int | None = None, *, user_id: str | None = None
    ) -> list[dict[str, Any]]:
        """The tool calls in the messages of a session, those of the newest run first: the `get_tool_calls` of the
        loaded session. `num_calls`: at most so many; their runs, and little more, are read. `ValueError` for a
        workflow's session, which has no such method. 2 requests, or 1 and one for each page of runs."""
        found = await self._find(session_id, user_id)
        if found is None:
            return []
        session, head = found
        if isinstance(session, WorkflowSession):
            raise _lacks(session, "get_tool_calls")
        if not num_calls:
            await self._load(session, head)
        else:
            calls = 0

            def take(run: Any) -> bool:
                nonlocal calls
                calls += sum(len(message.tool_calls or ()) for message in run.messages or ())
                return calls >= max(1, num_calls)

            await self._walk(session, head, (), take, page=min(SOME_RUNS, max(1, num_calls)))
        return session.get_tool_calls(num_calls)

    async def get_agent_history(
        self, session_id: str, num_runs: int | None = None, *, user_id: str | None = None
    ) -> list[tuple[str, str]]:
        """Input and answer of each completed run of an agent's session, as `get_team_history` has them of a team's."""
        return await self._exchanges("get_agent_history", AgentSession, session_id, user_id, None, num_runs)

    async def get_team_history(
        self,
        session_id: str,
        team_id: str | None = None,
        num_runs: int | None = None,
        *,
        user_id: str | None = None,
    ) -> list[tuple[str, str]]:
        """Input and answer of each completed run of a team's session, oldest first: its `get_team_history`. Without
        `team_id` those of the top level; `num_runs`: the last so many, for 2 requests as a rule. `ValueError` for
        another type of session."""
        return await self._exchanges("get_team_history", TeamSession, session_id, user_id, team_id, num_runs)

    async def get_workflow_history(
        self, session_id: str, num_runs: int | None = None, *, user_id: str | None = None
    ) -> list[tuple[str, str]]:
        """Input and output of each completed run of a workflow's session: its `get_workflow_history`, likewise."""
        return await self._exchanges("get_workflow_history", WorkflowSession, session_id, user_id, None, num_runs)

    async def _exchanges(
        self,
        method: str,
        of: type[Session],
        session_id: str,
        user_id: str | None,
        team_id: str | None,
        num_runs: int | None,
    ) -> list[tuple[str, str]]:
        found = await self._find(session_id, user_id)
        if found is None:
            return []
        session, head = found
        if not isinstance(session, of):
            raise _lacks(session, method)
        where = _not_in_status([status for status in RunStatus if status is not RunStatus.completed])
        if isinstance(session, WorkflowSession):
            where = (*where, *OF_A_WORKFLOW)
        elif team_id is not None:
            where = (*where, *_equal("team_id", team_id))
        else:
            where = (*where, Eq("parent_run_id", None))

        def chosen(run: Any) -> bool:
            of_the_team = team_id is None or getattr(run, "team_id", None) == team_id
            nested = team_id is None and not isinstance(session, WorkflowSession) and not _top_level(run)
            return run.status == RunStatus.completed and of_the_team and not nested

        await self._load_last(session, head, num_runs, where, chosen)
        if isinstance(session, WorkflowSession):
            return session.get_workflow_history(num_runs)
        # Agno has the rule on a team's session only; it is as good for an agent's.
        return TeamSession(session_id, runs=session.runs).get_team_history(team_id, num_runs)

    # --- Loading what a method of Agno's needs ----------------------------------------------------------------------

    async def _find(self, session_id: str, user_id: str | None) -> tuple[Session, Stored] | None:
        """A session that the user may read, without runs, and the head of its history. 1 request."""
        stored, head = await self.histories.heads(check_id("session_id", session_id))
        if stored is None or head is None or not readable(stored, user_id):
            return None
        kind = SessionType(stored.fields.get("session_type"))
        session: Session = deserialize_session(kind, {"session_id": session_id, "runs": []})
        return session, head

    async def _load(self, session: Session, head: Stored, where: tuple[Condition, ...] = ()) -> None:
        """Give the session all its runs, of which this handle keeps a copy; or those under the conditions."""
        runs = await self.histories.load(session.session_id, head)
        chosen = [run for run in runs if all(condition.holds(run.fields) for condition in where)]
        session.runs = [run for stored in chosen for run in _revived(session, stored)]

    async def _load_last(
        self, session: Session, head: Stored, count: int | None, where: tuple[Condition, ...], chosen: Any
    ) -> None:
        """Give the session the runs from the end that hold `count` chosen ones; None: all its runs."""
        if count is None:
            await self._load(session, head)
            return
        left = max(1, count)  # Agno answers nothing where less is asked for, but tells a history from none

        def take(run: Any) -> bool:
            nonlocal left
            left -= bool(chosen(run))
            return left <= 0

        await self._walk(session, head, where, take, page=left)

    async def _load_tail(
        self, session: Session, head: Stored, where: tuple[Condition, ...], asked: Asked, *, few: bool
    ) -> None:
        """Give the session the runs from the end that the answer is made of, and that with its system message."""
        whole = not await self._walk(session, head, where, asked.take, page=asked.page(), few=few)
        if whole or not asked.lacks_system_message:
            return
        tail = session.runs or []
        read = {run.run_id for run in tail}
        looked_at: list[Any] = []

        def take(run: Any) -> bool:
            looked_at.append(run)
            return run.run_id in read or asked.has_system_message(run) or len(looked_at) == FIRST_RUNS

        if not await self._walk(session, head, where, take, page=1, from_end=False, few=few):
            session.runs = tail  # all went meanwhile
        elif looked_at[-1].run_id in read:
            session.runs = [*looked_at[:-1], *tail]
        elif asked.has_system_message(looked_at[-1]):
            session.runs = [looked_at[-1], *tail]
        else:
            await self._load(session, head, where)

    async def _walk(
        self,
        session: Session,
        head: Stored,
        where: tuple[Condition, ...],
        take: Any,
        *,
        page: int,
        from_end: bool = True,
        few: bool = False,
    ) -> bool:
        """Give the session the runs from one end up to the one with which `take` has enough; whether it had."""
        found: list[Any] = []

        def take_stored(stored: Stored) -> bool:
            runs = _revived(session, stored)
            found.extend(runs)
            return any(take(run) for run in runs)

        done = await self.histories.walk(
            session.session_id, head, where, take_stored, page=page, from_end=from_end, few=few
        )
        session.runs = found[::-1] if from_end else found
        return done


@dataclass
class Asked:
    """What messages are asked for, and what the runs taken so far, the newest first, hold of them."""

    kind: type[Session]
    filters: dict[str, Any]
    last_n: int | None
    max_messages: int | None
    max_chars: int | None
    runs: int = field(default=0, init=False)
    messages: int = field(default=0, init=False)
    chars: int = field(default=0, init=False)

    @classmethod
    def of(
        cls,
        session: Session,
        filters: dict[str, Any],
        last_n: int | None,
        max_messages: int | None,
        max_chars: int | None,
    ) -> Asked:
        """Raises `ValueError` for a filter that the session's own method does not have: none is ignored."""
        own = FILTERS[type(session)]
        for name in ("agent_id", "team_id", "member_ids", "skip_member_messages"):
            if name not in own and filters[name] != (name == "skip_member_messages" or None):
                raise ValueError(f"messages of {type(session).__name__} {session.session_id!r} are not told by {name}")
        own = (*own, "skip_roles", "skip_statuses", "skip_history_messages")
        return cls(type(session), {name: filters[name] for name in own}, last_n, max_messages, max_chars)

    @property
    def bounded(self) -> bool:
        return self.last_n is not None or self.max_messages is not None or self.max_chars is not None

    @property
    def skip_statuses(self) -> list[Any]:
        given = self.filters["skip_statuses"]
        if self.kind is WorkflowSession:
            return given or []
        return list(HISTORY_SKIP_STATUSES) if given is None else given

    @property
    def members_too(self) -> bool:
        """Whether runs of a team's members are among those chosen."""
        if self.kind is not TeamSession:
            return False
        named = self.filters["team_id"] is not None or self.filters["member_ids"] is not None
        return named or not self.filters["skip_member_messages"]

    def columns(self) -> tuple[Condition, ...]:
        """What the columns tell of the runs that may hold the messages."""
        if self.kind is WorkflowSession:
            return OF_A_WORKFLOW
        where = list(_not_in_status(self.skip_statuses))
        for name in ("agent_id", "team_id"):
            if self.filters.get(name):
                where += _equal(name, self.filters[name])
        if not self.members_too:
            where.append(Eq("parent_run_id", None))
        return tuple(where)

    def page(self) -> int:
        """How many runs to ask for first."""
        if self.last_n is not None:
            return max(1, self.last_n)
        if self.max_messages is not None:
            return max(1, min((self.max_messages + 1) // 2, 4 * SOME_RUNS))  # a question and an answer each, at least
        return SOME_RUNS

    def take(self, run: Any) -> bool:
        """Count a run; whether no older one can hold a message of the answer, but the system message."""
        for holder in reversed(list(self._holders(run))):
            self.runs += 1
            for message in self._messages(holder):
                if message.role != "system":
                    self.messages += 1
                    self.chars += _length(message)
        if self.last_n is not None and self.runs >= self.last_n:
            return True
        full = (self.max_messages is not None and self.messages >= self.max_messages) or (
            self.max_chars is not None and self.chars > self.max_chars
        )
        # The system message is the first of the last n runs, which then have to be known.
        return full and (self.last_n is None or not self._takes_system_message)

    @property
    def _takes_system_message(self) -> bool:
        return "system" not in (self.filters["skip_roles"] or ())

    @property
    def lacks_system_message(self) -> bool:
        """Whether the runs taken need not hold the first system message of all."""
        return self._takes_system_message and self.last_n is None

    def has_system_message(self, run: Any) -> bool:
        return any(message.role == "system" for holder in self._holders(run) for message in self._messages(holder))

    def _holders(self, run: Any) -> Iterator[Any]:
        """The runs in a stored run that Agno takes messages from: it, or those of a workflow's steps."""
        agent_id, team_id = self.filters.get("agent_id"), self.filters["team_id"]
        if self.kind is WorkflowSession:
            for step in run.step_executor_runs or ():
                of_agent = isinstance(step, RunOutput) and step.agent_id == agent_id
                of_team = isinstance(step, TeamRunOutput) and step.team_id == team_id
                if (of_agent if agent_id else of_team) and step.status not in self.skip_statuses:
                    yield step
            return
        named = (not agent_id or getattr(run, "agent_id", None) == agent_id) and (
            not team_id or getattr(run, "team_id", None) == team_id
        )
        if named and (self.members_too or _top_level(run)) and run.status not in self.skip_statuses:
            yield run

    def _messages(self, run: Any) -> Iterator[Message]:
        for message in run.messages or ():
            tagged = message.from_history and self.filters["skip_history_messages"]
            if not tagged and message.role not in (self.filters["skip_roles"] or ()):
                yield message

    def answer(self, session: Session) -> list[Message]:
        """The messages by Agno's own rule, of the runs that the session was given; cut to the budget of characters."""
        limit = NO_BUDGET if self.max_messages is None and self.max_chars is not None else self.max_messages
        messages: list[Message] = session.get_messages(last_n_runs=self.last_n, limit=limit, **self.filters)
        return messages if self.max_chars is None else _fitting(messages, self.max_chars)


def _fitting(messages: list[Message], max_chars: int) -> list[Message]:
    """The system message, and the newest others that fit."""
    system = [message for message in messages[:1] if message.role == "system"]
    others = messages[len(system) :]
    if system and _length(system[0]) > max_chars:
        system = []
    left = max_chars - sum(map(_length, system))
    start = len(others)
    while start > 0 and (length := _length(others[start - 1])) <= left:
        start, left = start - 1, left - length
    while start < len(others) and others[start].role == "tool":
        start += 1  # its call did not fit
    return [*system, *others[start:]]


def _length(message: Message) -> int:
    """What a message counts in a budget of characters."""
    parts = [part for part in (message.content, message.tool_calls) if part]
    return sum(len(part) if isinstance(part, str) else len(_compact(part)) for part in parts)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _revived(session: Session, stored: Stored) -> list[Any]:
    """The run as Agno has it in a session of this type; nothing if it leaves such a run out."""
    data = (stored.body or {}).get("run_data", NULL).value()
    whole = type(session).from_dict({"session_id": session.session_id, "runs": [data]})
    return list(whole.runs or ()) if whole is not None else []


def _top_level(run: Any) -> bool:
    return run.parent_run_id is None


def _between(since: int | float | None, until: int | float | None) -> tuple[Condition, ...]:
    return tuple(between("created_at", check_time("since", since), check_time("until", until)))


def _equal(column: str, value: Any) -> tuple[Condition, ...]:
    """That a column holds an id; of anything else than text only the run itself tells."""
    return (Eq(column, value),) if isinstance(value, str) else ()


def _not_in_status(statuses: list[Any]) -> tuple[Condition, ...]:
    """That a run has none of these. Spelt otherwise than Agno stores them, only the run itself tells."""
    names = tuple(status.value for status in RunStatus if status in statuses)
    return (NotIn("status", names),) if names else ()


def _lacks(session: Session, method: str) -> ValueError:
    return ValueError(f"session {session.session_id!r} is a {type(session).__name__}, which has no {method}")
