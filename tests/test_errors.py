"""Errors as they reach another process: of `multiprocessing`, of a task queue."""

from __future__ import annotations

import copy
import pickle

import pytest

from agno_docstores import MISSING, errors
from agno_docstores.errors import DocstoreError
from agno_docstores.port import Ref

SAMPLES: list[DocstoreError] = [
    errors.InvalidIdError("user_id", ""),
    errors.UnserializableValueError("session_data.x", {1}),
    errors.OwnershipError("session", "s1", "u"),
    errors.SessionNotFoundError("s1"),
    errors.ScheduleNotFoundError("x"),
    errors.ContentionError("upsert", 40),
    errors.SessionConflictError("s1", 1, None, ("metadata.a",)),
    errors.StateConditionError("s1", {"a": (1, MISSING)}, {"b": 2}),
    errors.PayloadTooLargeError("runs", "r1", 9, 8),
    errors.ProvisioningError("sessions", "command"),
    errors.UnsupportedTopologyError("several documents"),
    errors.CorruptRecordError("runs", "r1", "why"),
    errors.SnapshotError("file", "is none"),
    errors.StoreError("get", "host", "reason"),
    errors.StoreUnavailableError("get", "host", "reason", maybe_applied=True, retryable=False),
    errors.StorageMissingError("get", "host", "reason"),
    errors.Conflict([Ref("runs", "r1")], resent=True),
    errors.DuplicateError("schedules", "x", "name"),
]


def _kinds(base: type[DocstoreError]) -> set[type[DocstoreError]]:
    own = {kind for kind in base.__subclasses__() if kind.__module__ == errors.__name__}
    return own.union(*map(_kinds, own))


@pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_reaches_another_process_as_it_is(error: DocstoreError) -> None:
    if isinstance(error, errors.StoreError):
        error.concerning("a session")
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(other) is type(error) and str(other) == str(error)
        assert {name: repr(value) for name, value in vars(other).items()} == {
            name: repr(value) for name, value in vars(error).items()
        }


def test_no_kind_of_error_is_forgotten() -> None:
    assert {type(error) for error in SAMPLES} == _kinds(DocstoreError)


def test_what_is_not_there_is_one_object_everywhere() -> None:
    assert pickle.loads(pickle.dumps(MISSING)) is copy.deepcopy(MISSING) is MISSING
