"""How long a session lives: the setting, and what follows from it for a record's expiry.

A session expires a time after it was last written to, by a save of itself or of one of its runs. Its record carries
that moment as its expiry (`Stored.expires_at`), which the store's own reaper knows as well, and which every read goes
by. Runs carry none: theirs would have to be rewritten with each turn. They go by their session's, and a sweep removes
them; that it is due to look, a reminder says (`schema.REMINDERS`), which outlives whatever the store has reaped. What
else goes with a session (`companions.py`) goes by the time at which it ended (`ended_at`).
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import timedelta
from typing import Any

from agno_docstores.kernel import Kernel, Query, expired
from agno_docstores.port import Eq, Expect, FieldValue, Put, Range, Ref, Stored, as_int
from agno_docstores.schema import REMINDERS, SESSIONS, reminder_ref

Seconds = int | float | timedelta
#: Of those of these sessions that have ended: when, in microseconds since the epoch (`Histories.ends`).
Ends = Callable[[Collection[str]], Awaitable[Mapping[str, int]]]

#: The expiry of a session with a run that awaits a human: the end of the year 9999, which every store's clock reaches.
HELD = 253_402_300_799
#: When to look again at a session that is held, where this process does not know how long sessions live.
UNKNOWN_LIFE = 86_400
#: A run does not move the expiry of its session by less than this many seconds, and less than this part of a life.
SLACK, SLACK_PART = 60, 100
#: Seconds that a session's first turn may take from what it writes before to the save of the session, which comes last.
UNSAVED = 3_600


@dataclass(frozen=True, slots=True)
class SessionConfig:
    """How long sessions live, and whether this process removes those that have expired.

    `ttl`: seconds (or a `timedelta`) from the last write of a session, or of a run of its, to its expiry.
    `max_inactive_days`: the same in days; of the two the shorter counts. Neither: sessions do not expire.
    `cleanup_interval`: seconds between the sweeps that this process makes by itself; None: it makes none (whoever likes
    calls `sweep()`). Raises `ValueError` for what is not positive.
    """

    ttl: Seconds | None = None
    cleanup_interval: Seconds | None = None
    max_inactive_days: Seconds | None = None

    def __post_init__(self) -> None:
        for name in ("ttl", "cleanup_interval", "max_inactive_days"):
            value = getattr(self, name)
            if value is not None:
                seconds_of(name, value)
            if isinstance(value, timedelta):
                days = value / timedelta(days=1)
                object.__setattr__(self, name, days if name == "max_inactive_days" else value.total_seconds())

    @classmethod
    def of(cls, value: SessionConfig | Mapping[str, Any] | None) -> SessionConfig:
        """A setting as users give it: this class, or a dict of its fields. Raises `ValueError` for unknown keys."""
        if value is None:
            return cls()
        if isinstance(value, cls):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(f"session_config must be a SessionConfig or a dict, not {type(value).__name__}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(str(name) for name in value if name not in known)
        if unknown:
            raise ValueError(f"session_config has no {', '.join(unknown)}; there are {', '.join(known)}")
        return cls(**value)

    @property
    def life(self) -> int | None:
        """Seconds from the last write of a session to its expiry; None: it has none."""
        days: Any = self.max_inactive_days
        lives: list[Any] = [self.ttl, None if days is None else days * 86_400]
        return min((math.ceil(life) for life in lives if life is not None), default=None)

    def to_dict(self) -> dict[str, Any]:
        """What was set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def seconds_of(name: str, value: Any) -> int:
    """A number of seconds as users give it. Raises `ValueError` for what is not positive."""
    number = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return math.ceil(number)


def is_held(session: Stored) -> bool:
    return session.expires_at == HELD


def reminder(session_id: str, due_at: int) -> Put:
    """That it is to be looked at whether a session has expired."""
    fields: dict[str, FieldValue] = {"about": SESSIONS.name, "target": session_id, "due_at": due_at}
    return Put(reminder_ref(SESSIONS.name, session_id), fields, {}, Expect.ANY)


def micros(seconds: float) -> int:
    """Microseconds since the epoch."""
    return int(seconds * 1e6)


def ended_at(
    session: Stored | None, head: Stored | None, reminding: Stored | None, now: float, life: int | None
) -> int | None:
    """When the session of an id ended, in microseconds since the epoch; None: it has not, or there was none. What was
    written by then is that session's and seen no more; what was written since is the next one's, saved yet or not.

    `session`: its record, also if it has expired; `head`: that of its history; `reminding`: its reminder, which counts
    where the store has reaped its record only. `life`: how long sessions live, as far as it is known here.

    With its record the store reaps the time. Certain is then that the session had not ended before its reminder was due
    (what puts a session off does not move that), and that whoever wrote since has saved the session or one of its runs,
    a life before it ended: unless a turn died, or is the first of the next session and under way. So what was written
    since the reminder was due, and is no older than such a turn may be, is taken for the next session's.
    """
    if head is not None and head.fields.get("deleting"):
        ended = head.fields.get("ended_at")
        return ended if isinstance(ended, int) else micros(now)
    if head is not None and not head.fields.get("mortal"):
        return None
    if session is not None:
        return micros(session.expires_at) if session.expires_at is not None and expired(session, now) else None
    if head is None and reminding is None:
        return None
    due_at = as_int(reminding.fields.get("due_at")) if reminding is not None else 0
    if due_at > now:
        due_at = 0  # set anew, by a sweep that has claimed what is left, or for a session that is about to be saved
    return micros(max(due_at, now - min(UNSAVED, life or UNSAVED)))


def due(now: int, *, about: str) -> Query:
    """The reminders of a sort whose time has come, the longest due first."""
    return Query(REMINDERS, (Eq("about", about), Range("due_at", None, now)), "due_at")


async def expired_ids(kernel: Kernel) -> tuple[str, ...]:
    """The ids of the sessions that have expired and are still there, or their runs are. 1 request, and 1 for each 100
    sessions that are due to be looked at."""
    reminders = await kernel.page(due(kernel.now(), about=SESSIONS.name))
    ids = [str(record.fields["target"]) for record in reminders]
    found = await kernel.read_records([Ref(SESSIONS.name, id) for id in ids])
    now = kernel.now()
    return tuple(id for id, session in zip(ids, found, strict=True) if session is None or expired(session, now))
