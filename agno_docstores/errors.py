"""What can go wrong, one class per decision that a caller can take.

Every error is a `DocstoreError`; each carries what it speaks of as attributes. No message holds a credential or a
stored value. Errors that a caller of plain Python would expect (`ValueError` for a bad id, `TypeError` for a value that
JSON cannot hold) are those as well. `status_code` is what AgentOS answers over HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


class DocstoreError(Exception):
    """Base class of every error raised by a document store of this package."""

    status_code = 500

    def __reduce__(self) -> tuple[Any, ...]:
        """As it is, to another process: what the constructor was given is not kept."""
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[DocstoreError], args: tuple[Any, ...], attributes: dict[str, Any]) -> DocstoreError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidIdError(DocstoreError, ValueError):
    """An id is not a non-empty `str` (or holds a lone surrogate, which no store can keep). Nothing was sent."""

    status_code = 422

    def __init__(self, name: str, value: object, why: str = "must be a non-empty str") -> None:
        self.name = name
        self.value = value
        super().__init__(f"{name} {why}, not {value!r}")


class UnserializableValueError(DocstoreError, TypeError):
    """A value that JSON cannot hold, or that is nested too deep, named by its path. Nothing was written."""

    status_code = 422

    def __init__(self, path: str, value: object, why: str = "which cannot be stored as JSON") -> None:
        self.path = path
        self.type_name = type(value).__name__
        super().__init__(f"{path} is a {self.type_name}, {why}")


class OwnershipError(DocstoreError, PermissionError):
    """The record belongs to another user. Nothing was written, and nothing of the record is disclosed."""

    status_code = 403

    def __init__(self, kind: str, id: str, user_id: str | None) -> None:
        self.kind = kind
        self.id = id
        self.user_id = user_id
        super().__init__(f"{kind} {id!r} belongs to another user than {user_id!r}")


class SessionNotFoundError(DocstoreError, LookupError):
    """A session that was to be changed, or to get a run, does not exist (any more). A run's has to be saved first."""

    status_code = 404

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        super().__init__(f"session {session_id!r} does not exist")


class ScheduleNotFoundError(DocstoreError, LookupError):
    """A run of a schedule was written that does not exist (any more). Nothing is left of it."""

    status_code = 404

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"schedule {schedule_id!r} does not exist")


class ContentionError(DocstoreError):
    """Other writers kept winning: the write was tried `attempts` times and is not stored. Safe to try again."""

    status_code = 409

    def __init__(self, what: str, attempts: int) -> None:
        self.what = what
        self.attempts = attempts
        super().__init__(f"{what}: gave up after {attempts} attempts against concurrent writers; nothing was stored")


class SessionConflictError(DocstoreError):
    """Somebody else wrote the session since it was read. Nothing was stored: read it again.

    `expected`: the version that was read, 0 for a session that was to be new; `found`: the version now, None if the
    session is gone; `changed`: the paths of what changed meanwhile ("session_data.session_state.cart"), None if what
    was read is not known any more.
    """

    status_code = 409

    def __init__(self, session_id: str, expected: int, found: int | None, changed: tuple[str, ...] | None) -> None:
        self.session_id = session_id
        self.expected = expected
        self.found = found
        self.changed = changed
        now = "is gone" if found is None else f"is at version {found}"
        what = f"; changed meanwhile: {', '.join(changed)}" if changed else ""
        super().__init__(f"session {session_id!r} was read at version {expected} and {now}{what}")


class StateConditionError(DocstoreError):
    """The session's data are not what a conditional update asks for. Nothing was changed.

    `unmet`: by path, what was expected and what was found (`MISSING` where there is nothing); empty where a predicate
    refused. `found`: the session's data as they are.
    """

    status_code = 409

    def __init__(self, session_id: str, unmet: Mapping[str, tuple[Any, Any]], found: Mapping[str, Any]) -> None:
        self.session_id = session_id
        self.unmet = dict(unmet)
        self.found = found
        what = ", ".join(self.unmet) or "a predicate"
        super().__init__(f"the condition on the data of session {session_id!r} does not hold: {what}")


class PayloadTooLargeError(DocstoreError, ValueError):
    """A value larger than `max_value_bytes` (sizes are bytes of its JSON text), or than the store can take (bytes as
    encoded for the store). Nothing was written."""

    status_code = 413

    def __init__(self, kind: str, id: str, size: int, limit: int) -> None:
        self.kind = kind
        self.id = id
        self.size = size
        self.limit = limit
        super().__init__(f"{kind} {id!r} takes {size} bytes; the limit is {limit}")


class ProvisioningError(DocstoreError):
    """Storage is missing and was not created: `provision=False`, or the right to create it is not there."""

    def __init__(self, table: str, command: str, reason: str = "does not exist") -> None:
        self.table = table
        self.command = command
        super().__init__(f"storage {table!r} {reason}; create it with: {command}")


class UnsupportedTopologyError(DocstoreError):
    """Several documents have to change at once, and this deployment cannot (a MongoDB standalone server)."""


class CorruptRecordError(DocstoreError):
    """A stored record cannot be decoded. It is never read as missing: that would let the next save overwrite it."""

    def __init__(self, kind: str, id: str, why: str) -> None:
        self.kind = kind
        self.id = id
        super().__init__(f"{kind} {id!r} cannot be decoded: {why}")


class SnapshotError(DocstoreError, ValueError):
    """What was to be loaded into a memory store is no snapshot of one, or a snapshot may not be saved where another
    store has saved its own. Nothing was loaded, or written. `where`: the file, or the hook that gave it."""

    def __init__(self, where: str, why: str) -> None:
        self.where = where
        super().__init__(f"{where} {why}")


class StoreError(DocstoreError):
    """The store refused an operation for a reason that trying again does not change.

    `reason` is the store's own. `concerns`: the records, by kind and id, or what was asked for; empty if neither is
    known, as of a request for a connection.
    """

    def __init__(self, operation: str, address: str, reason: str) -> None:
        self.operation = operation
        self.address = address
        self.reason = reason
        self.concerns = ""
        super().__init__(f"{operation} on {address} failed: {reason}")

    def concerning(self, what: str) -> None:
        """Say what the operation was about, unless that is said."""
        if not self.concerns:
            self.concerns = what
            self.args = (f"{self.operation} of {what} on {self.address} failed: {self.reason}",)


class StoreUnavailableError(StoreError):
    """The store could not be reached, or did not answer in time, within the bounded retries.

    `maybe_applied` tells whether a write may have taken effect although no answer came; `retryable`, whether trying
    again within the same call is worth the time (a server that could not be found has been waited for already).
    """

    status_code = 503

    def __init__(
        self, operation: str, address: str, reason: str, *, maybe_applied: bool = False, retryable: bool = True
    ) -> None:
        self.maybe_applied = maybe_applied
        self.retryable = retryable
        super().__init__(operation, address, reason)


class StorageMissingError(StoreError):
    """The table or collection is not there. Readers answer "empty" to it, writers provision and try again."""


class Conflict(DocstoreError):
    """A lost race: an expectation of a commit did not hold, so none of it was applied. The kernel retries on it.

    `resent`: the client had sent the commit before and had no answer to that, so what it has lost to may be itself."""

    def __init__(self, refs: Sequence[Any] = (), *, resent: bool = False) -> None:
        self.refs = tuple(refs)
        self.resent = resent
        super().__init__(f"expectation failed for {', '.join(f'{r.kind} {r.id!r}' for r in self.refs) or 'the commit'}")


if TYPE_CHECKING:
    from sqlalchemy.exc import IntegrityError

    class DuplicateError(DocstoreError, IntegrityError):
        """There is a record of this id already; or, if `field` is named, another has the value of that field, which
        must be unique. Nothing was written, and nothing of the other record is disclosed.

        Agno recognises what must be unique and is not by SQLAlchemy's class, so it is one of those as well.
        """

        status_code = 409
        kind: str
        id: str
        field: str | None

        def __init__(self, kind: str, id: str, field: str | None = None) -> None: ...

else:

    def __getattr__(name: str) -> Any:
        """`DuplicateError`, made when it is first asked for: to import SQLAlchemy takes longer than all else here."""
        if name != "DuplicateError":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from sqlalchemy.exc import IntegrityError

        class DuplicateError(DocstoreError, IntegrityError):
            status_code = 409

            def __init__(self, kind: str, id: str, field: str | None = None) -> None:
                self.kind, self.id, self.field = kind, id, field
                self.message = f"{kind} {id!r} is there already"
                if field is not None:  # whose value may be a secret
                    self.message = f"{kind} {id!r} was not written: its {field} is taken"
                super().__init__(None, None, ValueError(self.message))

            def __str__(self) -> str:
                return self.message

        DuplicateError.__module__, DuplicateError.__qualname__ = __name__, name
        return globals().setdefault(name, DuplicateError)
