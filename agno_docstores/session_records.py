"""A session's record: what Agno saves of a session, in canonical form, and how it is written.

Shared by the domains that change sessions. Invariants: a write is conditional on the record as it was read; it replaces
the columns of the session's own type whole, including with None, and leaves the rest; a write that changes what the
metrics count marks the session's history in the same commit; each write of content is a version more.

An object that was read carries a `Reading` with it, also as a copy: the version that it was, and the content then.
"""

from __future__ import annotations

import json
import logging
import re
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from agno.db.base import SessionType
from agno.db.utils import deserialize_session
from agno.session import AgentSession, TeamSession, WorkflowSession

from agno_docstores import chunks
from agno_docstores.codec import NULL, Json, is_long
from agno_docstores.domains.listing import equal, label
from agno_docstores.errors import Conflict, SessionConflictError
from agno_docstores.history import MARKED, Histories, fresh_head, history_ref, session_ref
from agno_docstores.kernel import Kernel, expired, new_token
from agno_docstores.keys import as_id, check_id, check_time, text_of
from agno_docstores.merging import MISSING, Path, changes, differences, merge, shown
from agno_docstores.port import Condition, Eq, Expect, Expectation, FieldValue, Has, Put, Rev, Stored, Write, as_int
from agno_docstores.schema import SESSIONS

log = logging.getLogger("agno_docstores")

Session = AgentSession | TeamSession | WorkflowSession
Row = dict[str, Any]

_METRICS = re.compile(r'"session_metrics":')
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, slots=True)
class Incoming:
    """A session as handed in, checked and in canonical form."""

    session_id: str
    session_type: str
    user_id: str | None
    component: tuple[str, str | None]  # the column of the session's own component id, and the id
    body: dict[str, Json]  # the parts that this type of session writes
    created_at: int | None
    updated_at: int | None

    @classmethod
    def of(cls, session: Session) -> Incoming:
        if isinstance(session, AgentSession):
            kind = SessionType.AGENT.value
        elif isinstance(session, TeamSession):
            kind = SessionType.TEAM.value
        elif isinstance(session, WorkflowSession):
            kind = SessionType.WORKFLOW.value
        else:
            raise TypeError(f"expected an AgentSession, TeamSession or WorkflowSession, not {type(session).__name__}")
        check_id("session_id", session.session_id)
        body = _plain_body(session, kind)
        if body is not None:
            row: Row = vars(session)
        else:
            try:
                row = session.to_dict(include_runs=False)
            except (TypeError, RecursionError):
                for name in ("session_data", f"{kind}_data", "metadata"):  # named by its path, if this is why
                    Json.of(getattr(session, name), name)
                raise
            body = {
                name: Json.of(row.get(name), name) for name in ("session_data", f"{kind}_data", "metadata", "summary")
            }
        user_id = row.get("user_id")
        component = row.get(f"{kind}_id")
        return cls(
            session.session_id,
            kind,
            None if user_id is None else as_id("user_id", user_id),
            (f"{kind}_id", label(f"{kind}_id", component)),
            body,
            check_time("created_at", row.get("created_at") or None),
            check_time("updated_at", row.get("updated_at")),
        )

    @classmethod
    async def taken(cls, kernel: Kernel, session: Session) -> Incoming:
        """The same, off the event loop where it takes long: the session must not be changed meanwhile."""

        def long() -> bool:
            attributes: dict[str, Any] = getattr(session, "__dict__", {})  # `of` says so where it is no session
            return is_long([value for name, value in attributes.items() if name not in ("runs", _READING)])

        return await kernel.io.work(long, cls.of, session)

    def over(
        self, stored: Stored | None, *, created_at: int, updated_at: int | None, version: int
    ) -> tuple[Row, dict[str, Json]]:
        """Fields and body of the record after this write, which makes it this version."""
        before = stored.fields if stored is not None else {}
        fields: Row = {name: before.get(name) for name in SESSIONS.fields}
        fields.update(
            {
                "session_type": before.get("session_type") or self.session_type,
                "user_id": self.user_id,
                self.component[0]: self.component[1],
                "created_at": created_at,
                "updated_at": updated_at,
                "version": version,
            }
        )
        body = dict.fromkeys(SESSIONS.body, NULL)
        body.update(stored.body or {} if stored is not None else {})
        body.update(self.body)
        return derived(fields, body, stored), body


def _plain_body(session: Session, kind: str) -> dict[str, Json] | None:
    """What `to_dict` of an Agno class says of the parts, told without it: to find objects in the session's data it
    copies all of them, and here they are only written as text. None where there are objects in it, or another class
    may say something else."""
    if type(session) not in (AgentSession, TeamSession):
        return None
    body: dict[str, Json] = {}
    for name in ("session_data", f"{kind}_data", "metadata"):
        part = Json.of_plain(getattr(session, name))
        if part is None:
            return None
        body[name] = part
    body["summary"] = Json.of(session.summary.to_dict() if session.summary else None, "summary")  # type: ignore[union-attr]
    return body


def derived(fields: Row, body: Mapping[str, Json], before: Stored | None = None) -> Row:
    """The fields that are functions of the others. `before`: the record as it was, of which what follows from data that
    stay the same is taken."""
    own = fields.get(f"{fields['session_type']}_id")
    components = [own, fields.get("agent_id"), fields.get("team_id"), fields.get("workflow_id")]
    data = body.get("session_data", NULL)
    same = before is not None and before.body is not None and before.body.get("session_data") == data
    name = before.fields.get("session_name") if before is not None and same else session_name_of(data)
    touched = fields.get("updated_at")
    return {
        **fields,
        "component": own or None,
        "components": tuple(dict.fromkeys(c for c in components if c)),
        "session_name": name,
        "touched_at": touched if touched is not None else fields.get("created_at"),
    }


def session_name_of(session_data: Json) -> str | None:
    """The session's name, if its data has one that is text."""
    if '"session_name"' not in session_data.text:
        return None
    data = session_data.value()
    name = data.get("session_name") if isinstance(data, dict) else None
    # A lone surrogate has no place in an index; the name itself keeps it.
    return name.encode(errors="replace").decode() if isinstance(name, str) else None


def _session_metrics(session_data: Json) -> list[Any]:
    """What stands under "session_metrics", wherever in the data: found in the text, for the data may be large. If it
    changes, this does; it may say so of a key of that name further inside, too, which costs a write."""
    found = []
    for match in _METRICS.finditer(session_data.text):
        value, _ = _DECODER.raw_decode(session_data.text, match.end())
        found.append(value)
    return found


def to_row(stored: Stored) -> Row:
    """The row of `agno_sessions` that a record stands for. Fresh objects each time."""
    fields, body = stored.fields, stored.body or {}
    return {
        "session_id": stored.ref.id,
        **{name: fields.get(name) for name in ("session_type", "agent_id", "team_id", "workflow_id", "user_id")},
        **{name: body.get(name, NULL).value() for name in SESSIONS.body},
        "created_at": fields.get("created_at"),
        "updated_at": fields.get("updated_at"),
        "version": version_of(stored),
    }


def version_of(session: Stored | None) -> int:
    """The version of a session's content, one more with each write; 0 where there is none."""
    return as_int(session.fields.get("version")) if session is not None else 0


def first_version(now: float) -> int:
    """The time in microseconds, so that a session that is begun anew under an id of old does not come to a version
    which somebody has read of the one before."""
    return int(now * 1e6)


def changed(session: Stored, body: Mapping[str, Json], **fields: FieldValue) -> tuple[Row, dict[str, Json]]:
    """Fields and body of a session's record after a change of some of its content."""
    whole = {**(session.body or {}), **body}
    return derived({**session.fields, **fields, "version": version_of(session) + 1}, whole), whole


# --- Listings ---------------------------------------------------------------------------------------------------------


def filters(
    user_id: str | None, session_type: SessionType | None, component_id: str | None
) -> tuple[list[Condition], list[Condition]]:
    """The conditions of a listing, and those that follow from them for an index that knows only those. Ids are compared
    as text. Raises `InvalidIdError` for a text that no record can hold."""
    where = equal(user_id=user_id)
    implied: list[Condition] = []
    component_id = label("component_id", component_id)
    if component_id is not None:
        # Of one type, the session's own component; else any of the ids that it has.
        any_of_its_ids = Has("components", component_id)
        where.append(any_of_its_ids if session_type is None else Eq("component", component_id))
        implied.append(any_of_its_ids)
    if session_type is not None:
        where.append(Eq("session_type", session_type.value))
    return where, implied


# --- Readings ---------------------------------------------------------------------------------------------------------

_READING = "_docstore_reading"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a session object was read as. It does not change: neither does what was read then.

    `expires_at`: of the session then, epoch seconds."""

    session_id: str
    version: int
    body: Mapping[str, Json]
    expires_at: int | None = None
    #: A save of the object has failed so that it may have been stored all the same.
    unsure: bool = False

    @classmethod
    def of(cls, stored: Stored) -> Reading:
        return cls(stored.ref.id, version_of(stored), stored.body or {}, stored.expires_at)

    def __deepcopy__(self, memo: Any) -> Reading:
        return self


def _own_reading(session: Session) -> Reading | None:
    reading = vars(session).get(_READING)
    return reading if isinstance(reading, Reading) and reading.session_id == session.session_id else None


class Readings:
    """How the session objects of a handle were read, or saved last.

    An object takes its reading along, also into copies. But Agno's teams save a shallow copy of the session that they
    hold, and go on with that: so of each session the save that was last is kept here as well, with the very parts
    ("session_data") that it was made of. Whoever still holds these has made what was saved then.
    """

    MOST = 128  # sessions

    def __init__(self) -> None:
        self._saved: OrderedDict[str, tuple[Reading, dict[str, Any]]] = OrderedDict()

    def of(self, session: Session, mine: Mapping[str, Json] | None = None) -> Reading | None:
        """How an object was read that is now as `mine`, if that is known; None of one that the caller made, and has not
        saved."""
        own, saved = _own_reading(session), self._saved.get(session.session_id)
        if saved is None or saved[0] is own:
            return own
        last, parts = saved
        held = [name for name, part in parts.items() if part is not None and getattr(session, name, None) is part]
        if not held:
            return own
        before = own.body if own is not None else {}
        # Of the others, those that it has as it was read it has not seen change.
        now = before if mine is None else mine
        known = [name for name in parts if name in held or now.get(name, NULL) != before.get(name, NULL)]
        knows_all = all(last.body.get(name) == before.get(name, NULL) for name in parts if name not in known)
        read_at = last.version if knows_all else own.version if own is not None else 0
        body = {**before, **{name: last.body[name] for name in known}}
        return replace(last, version=read_at, body=body, unsure=own is not None and own.unsure)

    def note(self, session: Session, reading: Reading) -> None:
        """That an object is as this says."""
        vars(session)[_READING] = reading

    def note_saved(self, session: Session, reading: Reading) -> None:
        """The same, when it has been saved."""
        self.note(session, reading)
        self._saved[reading.session_id] = (reading, {name: getattr(session, name, None) for name in reading.body})
        self._saved.move_to_end(reading.session_id)
        while len(self._saved) > self.MOST:
            with suppress(KeyError):  # another thread emptied it meanwhile
                self._saved.popitem(last=False)


def to_session(stored: Stored, session_type: SessionType | None, runs: list[Row] | None) -> Session:
    """The object that a record stands for, with its reading."""
    session: Session = deserialize_session(session_type, {**to_row(stored), "runs": runs})
    vars(session)[_READING] = Reading.of(stored)
    return session


def session_of_row(row: Row) -> Session:
    """The object that a row stands for, without its runs."""
    session: Session = deserialize_session(None, {**row, "runs": None})
    return session


# --- Conflicts --------------------------------------------------------------------------------------------------------


def merged(
    base: Mapping[str, Json], mine: Mapping[str, Json], theirs: Mapping[str, Json], *, again: bool = False
) -> tuple[dict[str, Json], list[Path]]:
    """The parts that a writer saves, with what others have changed since he read `base`; and the paths of their
    changes that are lost, because he changed the same. What both counted in `session_metrics` is added up; not so
    `again`, where his own may be in theirs. A summary is one's or the other's: it is of one conversation."""
    body: dict[str, Json] = {}
    lost: list[Path] = []
    for name, part in mine.items():
        before, now = base.get(name, NULL), theirs.get(name, NULL)
        if now == before:  # the usual case, told by the text
            body[name] = part
        elif name == "summary":
            body[name] = now if part == before else part
            lost += [(name,)] if part not in (before, now) else []
        else:
            counts = (lambda path: False) if again else _is_amount
            value, below = merge(before.value(), part.value(), now.value(), counts, (name,))
            body[name] = Json.parsed(value)
            lost += below
    return body, lost


def begun_anew(incoming: Incoming, reading: Reading) -> Incoming:
    """What is to be saved of an object whose session has expired since it was read: what its writer has made since. The
    session is another; of the old one nothing comes back but what the agent (team, workflow) says of itself."""
    own = f"{incoming.session_type}_data"
    body = {}
    for name, part in incoming.body.items():
        before = reading.body.get(name, NULL)
        if name == own:
            body[name] = part
        elif name == "summary" or part == before:
            body[name] = NULL if part == before else part
        else:
            made = changes(before.value(), part.value(), _is_amount, (name,))
            body[name] = NULL if made is MISSING else Json.parsed(made)
    return replace(incoming, body=body, created_at=None)


def _is_amount(path: Path) -> bool:
    return path[:2] == ("session_data", "session_metrics")


def conflict_over(
    current: Stored | None, session_id: str, expected: int, base: Mapping[str, Json] | None
) -> SessionConflictError:
    """That a session is no longer what it was read as, and what has changed, as far as the reading tells."""
    changed: tuple[str, ...] | None = None
    if base is not None and current is not None:
        before, now = ({name: part.value() for name, part in body.items()} for body in (base, current.body or {}))
        changed = tuple(map(shown, differences(before, now)))
    found = version_of(current) if current is not None else None
    return SessionConflictError(session_id, expected, found, changed)


# --- Access -----------------------------------------------------------------------------------------------------------


def readable(session: Stored, user_id: str | None) -> bool:
    """A read for a user sees that user's sessions, not the unowned ones."""
    return user_id is None or session.fields.get("user_id") == text_of(user_id)


def may_replace(session: Stored, user_id: str | None) -> bool:
    return session.fields.get("user_id") in (None, user_id)


# --- Writing ----------------------------------------------------------------------------------------------------------


async def commit_session(
    histories: Histories,
    session: Stored,
    fields: Mapping[str, FieldValue],
    body: Mapping[str, Json],
    head: tuple[Mapping[str, FieldValue], Expectation] | None,
) -> Stored:
    """Write a session's record over what was read, and with it its history's where `head` says what that becomes. Its
    expiry moves as its lifetime says. Raises `Conflict`; nothing is remembered of either then. 1 request; where the
    session gets its first expiry, 1 or 2 more."""
    kernel, session_id = histories.kernel, session.ref.id
    expires_at = histories.stamp(session)
    due: list[Write] = []
    if expires_at is not None and (session.expires_at is None or expires_at < session.expires_at):
        due = [histories.reminder(session_id, expires_at)]
    if expires_at is not None and session.expires_at is None:
        if head is None:
            found = await _head_of(kernel, session_id, remembered=True)
            head = (found.fields, found.rev)
        head = ({**head[0], "mortal": True}, head[1])
    writes: list[Write] = [Put(session.ref, fields, body, session.rev, expires_at)]
    if head is not None:
        writes.append(Put(history_ref(session_id), head[0], {}, head[1]))
    try:
        revs = await commit_reminded(kernel, writes, due)
    except Conflict:
        histories.forget_heads(session_id)
        raise
    assert revs[0] is not None
    stored = Stored(session.ref, revs[0], dict(fields), dict(body), expires_at)
    kernel.recent.note(session.ref, stored)
    if head is not None:
        assert revs[1] is not None
        kernel.recent.note(history_ref(session_id), Stored(history_ref(session_id), revs[1], dict(head[0]), {}))
    return stored


async def commit_reminded(kernel: Kernel, writes: list[Write], due: list[Write]) -> list[Rev | None]:
    """Commit writes with a reminder of them, which must not be missing: it is written first where one commit cannot
    hold both."""
    if kernel.driver.atomic:
        return (await kernel.commit([*writes, *due]))[: len(writes)]
    for write in due:
        await kernel.commit([write])
    return await kernel.commit(writes)


async def insert_session(
    histories: Histories, incoming: Incoming, updated_at: tuple[int | None] | None, head: Stored | None
) -> Stored:
    """Write a session that is not there, and its empty history. `updated_at`: (None: what `created_at` is). `head`:
    what is left of a history of that id, deleted or expired; its removal is finished first. Raises `Conflict`. 1
    request; where sessions have a lifetime, 2 on MongoDB."""
    kernel, session_id = histories.kernel, incoming.session_id
    if head is not None:
        await remove_rest(histories, head)
    expires_at = histories.stamp(None)
    first: Row = fresh_head(incoming.user_id, new_token())
    due: list[Write] = []
    if expires_at is not None:
        first["mortal"] = True
        due = [histories.reminder(session_id, expires_at)]
        if not kernel.driver.atomic:
            due = await _after_strays(histories, due)
    created_at = incoming.created_at or kernel.now()
    fields, body = incoming.over(
        None,
        created_at=created_at,
        updated_at=updated_at[0] if updated_at is not None else created_at,
        version=first_version(kernel.io.now()),
    )
    ref, head_at = session_ref(session_id), history_ref(session_id)
    writes: list[Write] = [
        Put(ref, fields, body, Expect.ABSENT, expires_at),
        Put(head_at, first, {}, Expect.ABSENT),
    ]
    try:
        revs = await commit_reminded(kernel, writes, due)
    except Conflict:
        histories.forget_heads(session_id)
        raise
    assert revs[0] is not None and revs[1] is not None
    stored = Stored(ref, revs[0], dict(fields), dict(body), expires_at)
    kernel.recent.note(ref, stored)
    new_head = Stored(head_at, revs[1], dict(first), {})
    kernel.recent.note(head_at, new_head)
    histories.begin(session_id, new_head)
    return stored


async def _after_strays(histories: Histories, due: list[Write]) -> list[Write]:
    """Store the reminder of a session that is to be inserted. A reminder that is there already may mean that the store
    has reaped a session of this id, history and all, and left its runs: they go first."""
    (put,) = due
    assert isinstance(put, Put)
    try:
        await histories.kernel.commit([replace(put, expect=Expect.ABSENT)])
    except Conflict:
        await histories.purge_strays(put.fields["target"])  # type: ignore[arg-type]
        return due
    return []


async def remove_rest(histories: Histories, head: Stored) -> None:
    """Finish what a deletion has begun, or remove a session that has expired, given what is left of its history."""
    session_id = head.ref.id
    if not head.fields.get("deleting"):
        (found,) = await histories.kernel.read_records([session_ref(session_id)])
        session = chunks.noted(found) if found is not None else None
        if session is not None and not expired(session, histories.kernel.now()):
            raise Conflict([session.ref])
        head = await histories.condemn(session, head)
    await histories.purge(session_id, head, begun_anew=True)


async def remove_session(histories: Histories, session_id: str, user_id: str | None) -> bool:
    """Delete a session with its runs, if it is `user_id`'s or no user is named; whether it was this call that took it
    away. A deletion that somebody else has begun is finished. That a session is not his is told in the log.

    The first commit takes the session away and marks its history as deleting, under the owner's check; then runs and
    history go. Whoever repeats it goes on. The history stays marked as uncounted meanwhile, so that an interrupted
    deletion is found through that index. 2 requests, and those of `Histories.purge`.
    """

    async def attempt(fresh: bool) -> tuple[Stored | None, bool]:
        current, head = await histories.heads(session_id)
        if head is None:
            return None, False
        if head.fields.get("deleting"):
            return head if readable(head, user_id) else None, False
        if current is None:
            return None, False  # it has expired: that is for a sweep
        if not readable(current, user_id):
            log.warning("session %r was not deleted: user %r does not own it", session_id, user_id)
            return None, False
        return await histories.condemn(current, head), True

    marked, taken = await histories.kernel.transact(f"deletion of session {session_id!r}", attempt)
    if marked is not None:
        with suppress(Conflict):  # somebody else has finished it, and the session was begun anew
            await histories.purge(session_id, marked)
    return taken


async def marked_head(
    kernel: Kernel, current: Stored, body: Mapping[str, Json], user_id: str | None
) -> tuple[Row, Expectation] | None:
    """What a write of this content changes of the session's history: its owner, and the mark that the metrics have to
    count it again; None if that is as it is. 1 read, where the owner changes or the history was not read before."""
    adopted = current.fields.get("user_id") != user_id
    before = (current.body or {}).get("session_data", NULL)
    after = body.get("session_data", NULL)
    if not adopted and (before == after or _session_metrics(before) == _session_metrics(after)):
        return None
    head = await _head_of(kernel, current.ref.id, remembered=not adopted)
    if not adopted and head.fields.get("uncounted"):
        return None
    return {**head.fields, **MARKED, "user_id": user_id}, head.rev


async def _head_of(kernel: Kernel, session_id: str, *, remembered: bool) -> Stored:
    """The head of a session's history, as remembered where that will do. Raises `Conflict` if the session is gone."""
    ref = history_ref(session_id)
    known = kernel.recent.get(ref) if remembered else None
    head = known if isinstance(known, Stored) else await kernel.get(ref)
    if head is None or head.fields.get("deleting"):
        kernel.recent.forget(ref)
        raise Conflict([ref])
    return head
