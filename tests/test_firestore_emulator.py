"""The embedded Firestore emulator, compared with Google's.

Every test that takes `client` or `connect` runs on both: what it asserts is what both answer. Tests that take `ours`
or `emulator` are of what is ours alone: what production refuses and Google's emulator does not, counters, lifecycle.
"""

from __future__ import annotations

import asyncio
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

grpc = pytest.importorskip("grpc")
firestore = pytest.importorskip("google.cloud.firestore")

from google.api_core import exceptions  # noqa: E402
from google.cloud.firestore_v1 import types  # noqa: E402
from google.cloud.firestore_v1._helpers import encode_value  # noqa: E402
from google.cloud.firestore_v1.base_query import And, FieldFilter, Or  # noqa: E402
from google.cloud.firestore_v1.base_vector_query import DistanceMeasure  # noqa: E402
from google.cloud.firestore_v1.vector import Vector  # noqa: E402

from agno_docstores_firestore.emulator import FirestoreEmulator, Refused, store  # noqa: E402

Connect = Callable[..., Any]


# --- servers ---------------------------------------------------------------------------------------------------------


def start_google_emulator() -> tuple[str, subprocess.Popen[bytes]]:
    """Google's emulator, listening: (address, process). RuntimeError says why there is none."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        raise RuntimeError("gcloud is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    # Its own session: the command is a shell around a shell around Java, and only the process group reaches them all.
    process = subprocess.Popen(
        [gcloud, "emulators", "firestore", "start", f"--host-port={address}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"gcloud emulators firestore start ended with {process.returncode}")
        with grpc.insecure_channel(address) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=1)
            except grpc.FutureTimeoutError:
                continue
            return address, process
    stop_google_emulator(process)
    raise RuntimeError("Google's emulator did not listen within 90 s")


def stop_google_emulator(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


@pytest.fixture(scope="session")
def google_address() -> Iterator[str]:
    try:
        address, process = start_google_emulator()
    except RuntimeError as error:
        if os.environ.get("AGNO_DOCSTORES_REQUIRE_STRICT") == "1":
            pytest.fail(f"Google's Firestore emulator is required: {error}")
        pytest.skip(f"no Google Firestore emulator: {error}")
    yield address
    stop_google_emulator(process)


@pytest.fixture(scope="session")
def embedded_address() -> Iterator[str]:
    # With every index declared, as it were: Google's emulator refuses no query for want of one.
    with FirestoreEmulator(composite_indexes=True) as address:
        yield address


@pytest.fixture(params=["embedded", "google"])
def address(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_address")
    return found


@pytest.fixture
def connect(address: str, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Makes clients, of one fresh project unless told: `connect()`, `connect(firestore.AsyncClient)`."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
    project = f"test-{uuid.uuid4().hex[:8]}"

    def make(kind: Any = firestore.Client, *, project: str = project, database: str | None = None) -> Any:
        return kind(project=project, database=database)

    return make


@pytest.fixture
def client(connect: Connect) -> Any:
    return connect()


@pytest.fixture
def emulator() -> Iterator[FirestoreEmulator]:
    one = FirestoreEmulator()
    one.start()
    yield one
    one.stop()


@pytest.fixture
def ours(emulator: FirestoreEmulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of `emulator`."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator.address)
    return firestore.Client(project="ours")


def ids(found: Any) -> list[str]:
    return [snapshot.id for snapshot in found]


def fill(client: Any, collection: str, documents: dict[str, dict[str, Any]]) -> Any:
    batch = client.batch()
    for name, data in documents.items():
        batch.set(client.document(f"{collection}/{name}"), data)
    batch.commit()
    return client.collection(collection)


def call(client: Any, rpc: str, request: Any) -> Any:
    """One RPC as it is, for what the client library would not send."""
    answer = getattr(client._firestore_api, rpc)(request, retry=None, timeout=30, metadata=client._rpc_metadata)
    return list(answer) if hasattr(answer, "__next__") else answer


def root(client: Any) -> str:
    return f"{client._database_string}/documents"


def commit(client: Any, *writes: types.Write, transaction: bytes = b"") -> Any:
    return call(
        client,
        "commit",
        types.CommitRequest(database=client._database_string, writes=writes, transaction=transaction),
    )


def structured(client: Any, **fields: Any) -> Any:
    query = types.StructuredQuery(fields)
    return call(client, "run_query", types.RunQueryRequest(parent=root(client), structured_query=query))


# --- documents -------------------------------------------------------------------------------------------------------


def test_a_document_comes_back_with_every_type_of_value(client: Any) -> None:
    data = {
        "null": None,
        "yes": True,
        "int": -(2**63),
        "double": 0.1,
        "inf": math.inf,
        "time": datetime(2024, 2, 29, 12, 30, 1, 123456, tzinfo=UTC),
        "text": "é\U0001f600\x00",
        "bytes": b"\x00\xff",
        "ref": client.document("a/b"),
        "point": firestore.GeoPoint(12.5, -70.25),
        "list": [1, "a", {"b": [2]}],
        "map": {"a.b": {"`": 1}},
        "vector": Vector([1.0, 2.0]),
        "empty list": [],
        "empty map": {},
    }
    client.document("c/d").set(data)
    assert client.document("c/d").get().to_dict() == data


def test_a_missing_document_is_reported_as_missing(client: Any) -> None:
    snapshot = client.document("c/none").get()
    assert not snapshot.exists
    assert snapshot.read_time is not None
    with pytest.raises(exceptions.NotFound):
        call(client, "get_document", types.GetDocumentRequest(name=f"{root(client)}/c/none"))


def test_create_refuses_an_existing_document(client: Any) -> None:
    client.document("c/d").create({"n": 1})
    with pytest.raises(exceptions.AlreadyExists):
        client.document("c/d").create({"n": 2})
    assert client.document("c/d").get().to_dict() == {"n": 1}


def test_update_refuses_a_missing_document(client: Any) -> None:
    with pytest.raises(exceptions.NotFound):
        client.document("c/d").update({"n": 1})


def test_update_reaches_into_maps_by_dotted_path(client: Any) -> None:
    document = client.document("c/d")
    document.set({"a": {"b": 1, "c": 2}, "keep": 1, "scalar": 5})
    document.update({"a.b": 3, "a.new.deep": 4, "a.c": firestore.DELETE_FIELD, "`x.y`": 6, "scalar.sub": 7})
    assert document.get().to_dict() == {
        "a": {"b": 3, "new": {"deep": 4}},
        "keep": 1,
        "x.y": 6,
        "scalar": {"sub": 7},
    }


def test_set_replaces_and_merge_keeps(client: Any) -> None:
    document = client.document("c/d")
    document.set({"a": {"b": 1}, "c": 1})
    document.set({"a": {"d": 2}}, merge=True)
    assert document.get().to_dict() == {"a": {"b": 1, "d": 2}, "c": 1}
    document.set({"a": {"e": 3}, "c": 9}, merge=["a"])
    assert document.get().to_dict() == {"a": {"e": 3}, "c": 1}
    document.set({"z": 1})
    assert document.get().to_dict() == {"z": 1}


def test_get_with_field_paths_returns_only_those(client: Any) -> None:
    document = client.document("c/d")
    document.set({"a": {"b": 1, "c": 2}, "d": 3})
    assert document.get(field_paths=["a.b", "none"]).to_dict() == {"a": {"b": 1}}
    assert document.get(field_paths=["__name__"]).to_dict() == {}


def test_delete_is_idempotent_and_takes_preconditions(client: Any) -> None:
    document = client.document("c/d")
    document.delete()
    with pytest.raises(exceptions.NotFound):
        document.delete(option=client.write_option(exists=True))
    first = document.set({"n": 1})
    document.set({"n": 2})
    with pytest.raises(exceptions.FailedPrecondition):
        document.delete(option=client.write_option(last_update_time=first.update_time))
    assert document.get().exists
    document.delete(option=client.write_option(last_update_time=document.get().update_time))
    assert not document.get().exists


def test_update_time_identifies_the_version(client: Any) -> None:
    document = client.document("c/d")
    document.set({"n": 1})
    read = document.get()
    document.update({"n": 2}, option=client.write_option(last_update_time=read.update_time))
    with pytest.raises(exceptions.FailedPrecondition):
        document.update({"n": 3}, option=client.write_option(last_update_time=read.update_time))
    with pytest.raises(exceptions.FailedPrecondition):
        client.document("c/none").update({"n": 3}, option=client.write_option(last_update_time=read.update_time))
    now = document.get()
    assert now.to_dict() == {"n": 2}
    assert now.update_time > read.update_time
    assert now.create_time == read.create_time


def test_a_write_that_changes_nothing_makes_no_version(client: Any) -> None:
    document = client.document("c/d")
    before = document.set({"n": 1, "nan": math.nan}).update_time
    assert document.set({"n": 1, "nan": math.nan}).update_time == before
    assert document.update({"n": firestore.Increment(0)}).update_time == before
    assert document.get().update_time == before
    assert document.set({"n": 1.0, "nan": math.nan}).update_time > before


def test_a_document_that_is_made_again_has_a_new_create_time(client: Any) -> None:
    document = client.document("c/d")
    document.set({"n": 1})
    first = document.get().create_time
    document.delete()
    document.set({"n": 1})
    assert document.get().create_time > first


def test_projects_and_databases_are_apart(connect: Connect) -> None:
    connect().document("c/d").set({"n": 1})
    assert not connect(project="another-project").document("c/d").get().exists
    assert not connect(database="second").document("c/d").get().exists
    connect(database="second").document("c/d").set({"n": 2})
    assert connect().document("c/d").get().to_dict() == {"n": 1}


def test_the_document_calls_of_the_api(client: Any) -> None:
    parent, name = root(client), f"{root(client)}/c/d"
    fields = {"a": types.Value(integer_value=1)}
    made = call(
        client,
        "create_document",
        types.CreateDocumentRequest(parent=parent, collection_id="c", document_id="d", document={"fields": fields}),
    )
    assert made.name == name
    with pytest.raises(exceptions.AlreadyExists):
        call(
            client,
            "create_document",
            types.CreateDocumentRequest(parent=parent, collection_id="c", document_id="d", document={}),
        )
    with pytest.raises(exceptions.InvalidArgument):
        call(
            client,
            "create_document",
            types.CreateDocumentRequest(parent=parent, collection_id="c", document={"name": name}),
        )
    unnamed = call(
        client, "create_document", types.CreateDocumentRequest(parent=parent, collection_id="c", document={})
    )
    assert len(unnamed.name.rpartition("/")[2]) == 20
    updated = call(
        client,
        "update_document",
        types.UpdateDocumentRequest(
            document={"name": name, "fields": {"b": types.Value(integer_value=2)}},
            update_mask={"field_paths": ["b"]},
            mask={"field_paths": ["b"]},
        ),
    )
    assert dict(updated.fields) == {"b": types.Value(integer_value=2)}
    assert client.document("c/d").get().to_dict() == {"a": 1, "b": 2}
    call(client, "delete_document", types.DeleteDocumentRequest(name=name))
    assert not client.document("c/d").get().exists


def test_get_all_answers_once_for_each_document(client: Any) -> None:
    fill(client, "c", {"a": {"n": 1}, "b": {"n": 2}})
    wanted = [client.document(f"c/{name}") for name in ("b", "none", "a", "b")]
    found = list(client.get_all(wanted))
    assert sorted((one.id, one.exists) for one in found) == [("a", True), ("b", True), ("none", False)]
    assert len({one.read_time for one in found}) == 1


# --- batches ---------------------------------------------------------------------------------------------------------


def test_a_batch_is_all_or_nothing(client: Any) -> None:
    batch = client.batch()
    batch.set(client.document("c/a"), {"n": 1})
    batch.update(client.document("c/none"), {"n": 1})
    with pytest.raises(exceptions.NotFound):
        batch.commit()
    assert not client.document("c/a").get().exists


def test_writes_of_a_batch_see_those_before_them(client: Any) -> None:
    batch = client.batch()
    batch.create(client.document("c/a"), {"n": 1})
    batch.update(client.document("c/a"), {"n": firestore.Increment(1)})
    batch.set(client.document("c/gone"), {"n": 1})
    batch.delete(client.document("c/gone"))
    results = batch.commit()
    assert client.document("c/a").get().to_dict() == {"n": 2}
    assert not client.document("c/gone").get().exists
    assert results[0].update_time == client.document("c/a").get().update_time


def test_a_batch_checks_update_times(client: Any) -> None:
    document = client.document("c/a")
    document.set({"n": 1})
    read = document.get()
    for expected in (None, exceptions.FailedPrecondition):
        batch = client.batch()
        batch.update(
            document, {"n": firestore.Increment(1)}, option=client.write_option(last_update_time=read.update_time)
        )
        batch.set(client.document("c/b"), {"n": firestore.Increment(1)}, merge=True)
        if expected is None:
            batch.commit()
        else:
            with pytest.raises(expected):
                batch.commit()
    assert client.document("c/b").get().to_dict() == {"n": 1}


def test_a_commit_may_have_more_than_500_writes(client: Any) -> None:
    batch = client.batch()
    for number in range(1001):
        batch.set(client.document(f"c/{number}"), {"n": number})
    assert len(batch.commit()) == 1001


def test_deleting_and_then_updating_in_one_commit_is_refused(client: Any) -> None:
    client.document("c/a").set({"n": 1})
    batch = client.batch()
    batch.delete(client.document("c/a"))
    batch.update(client.document("c/a"), {"n": 2})
    with pytest.raises(exceptions.InvalidArgument):
        batch.commit()


def test_a_batch_write_reports_each_write(client: Any) -> None:
    name = f"{root(client)}/c"
    answer = call(
        client,
        "batch_write",
        types.BatchWriteRequest(
            database=client._database_string,
            writes=[
                {"update": {"name": f"{name}/a", "fields": {"n": types.Value(integer_value=1)}}},
                {"update": {"name": f"{name}/b"}, "current_document": {"exists": True}},
                {"delete": f"{name}/c"},
            ],
        ),
    )
    assert [one.code for one in answer.status] == [0, grpc.StatusCode.NOT_FOUND.value[0], 0]
    assert [bool(one.update_time) for one in answer.write_results] == [True, False, False]
    assert client.document("c/a").get().exists
    write = types.Write(delete=f"{name}/a")
    with pytest.raises(exceptions.InvalidArgument):
        call(
            client,
            "batch_write",
            types.BatchWriteRequest(database=client._database_string, writes=[write, write]),
        )


def test_the_bulk_writer_writes_everything(client: Any) -> None:
    writer = client.bulk_writer()
    for number in range(50):
        writer.create(client.document(f"c/{number:02}"), {"n": number})
    writer.close()
    assert len(ids(client.collection("c").stream())) == 50


# --- transforms ------------------------------------------------------------------------------------------------------


def test_increment_starts_from_nothing_and_saturates(client: Any) -> None:
    document = client.document("c/d")
    document.set({"text": "x", "big": 2**63 - 2})
    document.update(
        {
            "n": firestore.Increment(5),
            "text": firestore.Increment(7),
            "big": firestore.Increment(5),
            "deep.er": firestore.Increment(1.5),
        }
    )
    document.update({"n": firestore.Increment(-2), "deep.er": firestore.Increment(1)})
    assert document.get().to_dict() == {"n": 3, "text": 7, "big": 2**63 - 1, "deep": {"er": 2.5}}


def test_maximum_and_minimum(client: Any) -> None:
    document = client.document("c/d")
    document.set({"a": 1, "b": 1, "nan": 1, "same": 3})
    document.update(
        {
            "a": firestore.Maximum(2.5),
            "b": firestore.Minimum(2),
            "c": firestore.Maximum(4),
            "nan": firestore.Maximum(math.nan),
            "same": firestore.Maximum(3.0),
        }
    )
    found = document.get().to_dict()
    assert math.isnan(found.pop("nan"))
    assert found == {"a": 2.5, "b": 1, "c": 4, "same": 3}
    assert isinstance(found["same"], int)


def test_array_union_and_remove_compare_by_value(client: Any) -> None:
    document = client.document("c/d")
    document.set({"tags": ["a", 1], "text": "x"})
    document.update({"tags": firestore.ArrayUnion(["b", 1.0, "a", {"k": 1}]), "text": firestore.ArrayUnion(["y"])})
    assert document.get().to_dict() == {"tags": ["a", 1, "b", {"k": 1}], "text": ["y"]}
    document.update({"tags": firestore.ArrayRemove([1.0, {"k": 1}]), "none": firestore.ArrayRemove([1])})
    assert document.get().to_dict() == {"tags": ["a", "b"], "text": ["y"], "none": []}


def test_the_server_timestamp_is_one_moment_for_a_commit(client: Any) -> None:
    before = datetime.now(UTC) - timedelta(milliseconds=1)
    batch = client.batch()
    batch.set(client.document("c/a"), {"at": firestore.SERVER_TIMESTAMP})
    batch.set(client.document("c/b"), {"deep": {"at": firestore.SERVER_TIMESTAMP}, "n": 1})
    batch.commit()
    one = client.document("c/a").get().get("at")
    assert client.document("c/b").get().to_dict() == {"deep": {"at": one}, "n": 1}
    assert before <= one <= datetime.now(UTC)
    assert one.microsecond % 1000 == 0


def test_transform_results_are_reported_in_order(client: Any) -> None:
    transforms = [
        {"field_path": "n", "increment": types.Value(integer_value=2)},
        {"field_path": "n", "increment": types.Value(integer_value=3)},
        {"field_path": "l", "append_missing_elements": {"values": [types.Value(integer_value=1)]}},
    ]
    answer = commit(
        client,
        types.Write(transform={"document": f"{root(client)}/c/d", "field_transforms": transforms}),
    )
    first, second, third = answer.write_results[0].transform_results
    assert (first.integer_value, second.integer_value) == (2, 5)
    assert "null_value" in third
    for bad in ({"field_path": "n"}, {"field_path": "n", "increment": types.Value(string_value="a")}):
        with pytest.raises(exceptions.InvalidArgument):
            commit(client, types.Write(transform={"document": f"{root(client)}/c/d", "field_transforms": [bad]}))


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "size"),
    [
        ({}, 0),
        ({"s": "é" * 10}, 2 + 21),
        ({"l": [None, True, 1, 1.5, "a", b"12"]}, 2 + 1 + 1 + 8 + 8 + 2 + 2),
        ({"v": Vector([1.0, 2.0, 3.0])}, 2 + 24),
        ({"t": datetime(2024, 1, 1, tzinfo=UTC), "g": firestore.GeoPoint(1, 2)}, 2 + 8 + 2 + 16),
    ],
    ids=["bytes", "text", "list", "vector", "time and point"],
)
def test_a_document_of_1_mib_is_the_largest(client: Any, extra: dict[str, Any], size: int) -> None:
    # users/jeff/tasks/id: the name counts 6 + 5 + 6 + 3 + 16, the document 32, the two padding fields 2 each.
    room = 1_048_576 - 36 - 32 - 4 - size
    document = client.document("users/jeff/tasks/id")
    document.set({"a": b"x" * 500_000, "b": b"x" * (room - 500_000), **extra})
    with pytest.raises(exceptions.InvalidArgument):
        document.set({"a": b"x" * 500_000, "b": b"x" * (room - 500_000 + 1), **extra})


def test_a_document_may_not_grow_over_1_mib(client: Any) -> None:
    document = client.document("c/d")
    document.set({"a": b"x" * 600_000})
    with pytest.raises(exceptions.InvalidArgument):
        document.update({"b": b"x" * 600_000})
    with pytest.raises(exceptions.InvalidArgument):
        document.update({"b": firestore.ArrayUnion([b"x" * 600_000])})
    assert set(document.get().to_dict()) == {"a"}


@pytest.mark.parametrize("one", ["x", b"x"], ids=["text", "bytes"])
def test_a_value_of_1_048_487_bytes_is_the_largest(client: Any, one: Any) -> None:
    client.document("c/d").set({"v": one * 1_048_487})
    with pytest.raises(exceptions.InvalidArgument):
        client.document("c/d").set({"v": one * 1_048_488})


@pytest.mark.parametrize("good", ["a" * 1500, "é" * 750, " ", "\x00", "__", "____", "__x", "__id7__", "...", "a.b"])
def test_document_ids_that_are_taken(client: Any, good: str) -> None:
    commit(client, types.Write(update={"name": f"{root(client)}/c/{good}"}))
    assert ids(client.collection("c").stream()) == [good]


@pytest.mark.parametrize("bad", ["", ".", "..", "__x__", "a" * 1501, "é" * 751, "a/b"])
def test_document_ids_that_are_refused(client: Any, bad: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, types.Write(update={"name": f"{root(client)}/c/{bad}"}))
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, types.Write(update={"name": f"{root(client)}/{bad}/d"}))


def nested(depth: int) -> Any:
    return {"k": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    "good",
    [{"a" * 1500: 1}, {"m": {"a" * 1498: 1}}, {"m": nested(20)}, {"l": [{"l": [1]}]}, {"a.b": 1, " ": 1, "__": 1}],
    ids=["name", "path", "depth", "list in map in list", "odd"],
)
def test_fields_that_are_taken(client: Any, good: dict[str, Any]) -> None:
    client.document("c/d").set(good)
    assert client.document("c/d").get().to_dict() == good


@pytest.mark.parametrize(
    "bad",
    [
        {"a" * 1501: 1},
        {"m": {"a" * 1499: 1}},
        {"m": nested(21)},
        {"l": [[1]]},
        {"__a__": 1},
        {"m": {"__a__": 1}},
    ],
    ids=["name", "path", "depth", "list in list", "reserved", "reserved below"],
)
def test_fields_that_are_refused(client: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        client.document("c/d").set(bad)


@pytest.mark.parametrize(
    "bad",
    [
        types.Value(),
        types.Value(reference_value="nowhere"),
        types.Value(geo_point_value={"latitude": 91}),
        types.Value(timestamp_value={"seconds": 10**12}),
    ],
    ids=["unset", "reference", "point", "time"],
)
def test_values_that_are_refused(client: Any, bad: types.Value) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, types.Write(update={"name": f"{root(client)}/c/d", "fields": {"v": bad}}))


def test_times_are_kept_in_microseconds(client: Any) -> None:
    moment = types.Value(timestamp_value={"seconds": 1, "nanos": 123_456_789})
    commit(client, types.Write(update={"name": f"{root(client)}/c/d", "fields": {"v": moment}}))
    found = call(client, "get_document", types.GetDocumentRequest(name=f"{root(client)}/c/d"))
    assert types.Document.pb(found).fields["v"].timestamp_value.nanos == 123_456_000


@pytest.mark.parametrize("bad", ["", "a..b", "a b", ".a", "`a", "1a"])
def test_field_paths_that_are_refused(client: Any, bad: str) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, types.Write(update={"name": f"{root(client)}/c/d"}, update_mask={"field_paths": [bad]}))


def test_names_that_are_not_documents_are_refused(client: Any) -> None:
    for name in ("nowhere", root(client), f"{root(client)}/c", f"{root(client)}/c/d/e"):
        with pytest.raises(exceptions.InvalidArgument):
            commit(client, types.Write(update={"name": name}))
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, types.Write())


# --- queries ---------------------------------------------------------------------------------------------------------

NEW_YEAR = datetime(2020, 1, 1, tzinfo=UTC)

IN_ORDER: list[tuple[str, Any]] = [
    ("null", None),
    ("false", False),
    ("true", True),
    ("nan", math.nan),
    ("-inf", -math.inf),
    ("-1", -1),
    ("0.0", -0.0),
    ("0int", 0),
    ("0x5", 0.5),
    ("1", 1),
    ("1float", 1.0),
    ("2^53", float(2**53)),
    ("2^53+1", 2**53 + 1),
    ("2^63-1", 2**63 - 1),
    ("2^63", float(2**63)),
    ("inf", math.inf),
    ("time", NEW_YEAR),
    ("time later", NEW_YEAR.replace(microsecond=5)),
    ("text empty", ""),
    ("text a", "a"),
    ("text z", "z"),
    ("text é", "é"),
    ("text last of plane 0", "\uffee"),
    ("text plane 1", "\U0001f600"),
    ("bytes empty", b""),
    ("bytes a", b"a"),
    ("ref", "ref:c/a"),
    ("ref below", "ref:c/a/d/e"),
    ("ref next", "ref:c/b"),
    ("point west", firestore.GeoPoint(1, -2)),
    ("point east", firestore.GeoPoint(1, 2)),
    ("list empty", []),
    ("list 1", [1]),
    ("list 1 2", [1, 2]),
    ("list 2", [2]),
    ("vector", Vector([1.0, 2.0])),
    ("map empty", {}),
    ("map a", {"a": 1}),
    ("map a b", {"a": 1, "b": 0}),
    ("map a2", {"a": 2}),
    ("map b", {"b": 0}),
]
NAMES = [name for name, _ in IN_ORDER]


def filled_with_every_type(client: Any) -> Any:
    def referring(value: Any) -> Any:
        is_reference = isinstance(value, str) and value.startswith("ref:")
        return client.document(value[4:]) if is_reference else value

    documents = {name: {"v": referring(value)} for name, value in IN_ORDER}
    return fill(client, "o", documents | {"no field": {"w": 1}})


def between(first: str, last: str) -> list[str]:
    return NAMES[NAMES.index(first) : NAMES.index(last) + 1]


def test_values_of_all_types_have_one_order(client: Any) -> None:
    collection = filled_with_every_type(client)
    assert ids(collection.order_by("v").stream()) == NAMES
    assert ids(collection.order_by("v", direction="DESCENDING").stream()) == NAMES[::-1]


def test_comparisons_stay_within_a_type(client: Any) -> None:
    collection = filled_with_every_type(client)

    def where(op: str, value: Any) -> list[str]:
        return ids(collection.where(filter=FieldFilter("v", op, value)).stream())

    assert where("<", 1) == between("-inf", "0x5")
    assert where("<=", 1) == between("-inf", "1float")
    assert where(">", 0) == between("0x5", "inf")
    assert where(">=", 2**53) == between("2^53", "inf")
    assert where(">", 2**53) == between("2^53+1", "inf")
    assert where(">=", "a") == between("text a", "text plane 1")
    assert where(">", b"") == ["bytes a"]
    assert where(">=", False) == ["false", "true"]
    assert where("<=", NEW_YEAR) == ["time"]
    assert where(">", client.document("c/a")) == ["ref below", "ref next"]
    assert where("<", firestore.GeoPoint(1, 2)) == ["point west"]
    assert where(">", [1]) == ["list 1 2", "list 2"]
    assert where("<", {"a": 2}) == ["map empty", "map a", "map a b"]
    assert sorted(where("==", 1)) == ["1", "1float"]
    assert sorted(where("==", 0)) == ["0.0", "0int"]
    assert where("==", {"a": 1}) == ["map a"]
    assert where("==", [1]) == ["list 1"]


def test_null_and_nan_are_asked_for_by_name(client: Any) -> None:
    collection = filled_with_every_type(client)

    def where(op: str, value: Any) -> list[str]:
        return ids(collection.where(filter=FieldFilter("v", op, value)).stream())

    assert where("==", None) == ["null"]
    assert where("==", math.nan) == ["nan"]
    assert where("!=", None) == NAMES[1:]
    assert where("!=", math.nan) == [name for name in NAMES[1:] if name != "nan"]
    assert where("!=", 1) == [name for name in NAMES[1:] if name not in ("1", "1float")]
    assert where("in", [None, math.nan, "a"]) == ["text a"]
    assert where("not-in", ["a", 1]) == [name for name in NAMES[1:] if name not in ("text a", "1", "1float")]
    assert where("not-in", ["a", None]) == []


def test_array_filters(client: Any) -> None:
    collection = fill(
        client,
        "c",
        {"a": {"l": [1, "x"]}, "b": {"l": [2, {"k": 1}]}, "c": {"l": [None, math.nan]}, "d": {"l": 1}},
    )
    assert ids(collection.where(filter=FieldFilter("l", "array_contains", 1.0)).stream()) == ["a"]
    assert ids(collection.where(filter=FieldFilter("l", "array_contains", {"k": 1})).stream()) == ["b"]
    assert ids(collection.where(filter=FieldFilter("l", "array_contains_any", ["x", 2])).stream()) == ["a", "b"]
    assert ids(collection.where(filter=FieldFilter("l", "array_contains_any", [None])).stream()) == []


def test_fields_below_maps_are_queried_by_path(client: Any) -> None:
    collection = fill(client, "c", {"a": {"m": {"n": 1, "x.y": 5}}, "b": {"m": {"n": 2}}, "c": {"m": 1}})
    assert ids(collection.order_by("m.n").stream()) == ["a", "b"]
    assert ids(collection.where(filter=FieldFilter("m.`x.y`", "==", 5)).stream()) == ["a"]


def test_and_or_in_compose(client: Any) -> None:
    collection = fill(client, "c", {f"{x}{y}": {"x": x, "y": y} for x in "abc" for y in (1, 2)})
    x, y = (lambda v: FieldFilter("x", "==", v)), (lambda v: FieldFilter("y", "==", v))
    assert ids(collection.where(filter=And([x("a"), y(2)])).stream()) == ["a2"]
    assert ids(collection.where(filter=Or([x("b"), And([x("a"), y(2)])])).stream()) == ["a2", "b1", "b2"]
    in_and = And([FieldFilter("x", "in", ["a", "c", "c"]), FieldFilter("y", "in", [1])])
    assert ids(collection.where(filter=in_and).stream()) == ["a1", "c1"]
    ordered = collection.where(filter=Or([x("a"), y(1)])).order_by("x", direction="DESCENDING").order_by("y")
    assert ids(ordered.stream()) == ["c1", "b1", "a1", "a2"]


def test_inequalities_on_two_fields_order_by_both(client: Any) -> None:
    collection = fill(client, "c", {f"{x}{y}": {"x": x, "y": y} for x in (1, 2, 3) for y in (1, 2)})
    query = collection.where(filter=FieldFilter("y", ">", 0)).where(filter=FieldFilter("x", ">", 1))
    assert ids(query.stream()) == ["21", "22", "31", "32"]
    assert ids(query.order_by("y", direction="DESCENDING").stream()) == ["32", "22", "31", "21"]


@pytest.mark.parametrize(
    "bad",
    [
        FieldFilter("v", "in", []),
        FieldFilter("v", "in", list(range(31))),
        FieldFilter("v", "not-in", list(range(11))),
        And([FieldFilter("v", "!=", 1), FieldFilter("v", "!=", 2)]),
        And([FieldFilter("v", "not-in", [1]), FieldFilter("v", "in", [2])]),
        And([FieldFilter("v", "array_contains", 1), FieldFilter("w", "array_contains", 1)]),
        And([FieldFilter("v", "in", list(range(6))), FieldFilter("w", "in", list(range(6)))]),
        Or([FieldFilter("v", "==", number) for number in range(31)]),
        FieldFilter("v", "==", "x" * 1500),
        FieldFilter("v", "==", b"x" * 1501),
        FieldFilter("v..w", "==", 1),
    ],
    ids=[
        "empty in",
        "in 31",
        "not-in 11",
        "two !=",
        "not-in and in",
        "two contains",
        "36",
        "31",
        "text",
        "bytes",
        "path",
    ],
)
def test_filters_that_are_refused(client: Any, bad: Any) -> None:
    with pytest.raises((exceptions.InvalidArgument, ValueError)):
        list(client.collection("c").where(filter=bad).stream())


def test_long_values_are_indexed_by_their_first_1500_bytes(client: Any) -> None:
    collection = fill(client, "c", {"a": {"v": "x" * 1500 + "b"}, "b": {"v": "x" * 1500 + "a"}, "c": {"v": "x" * 1499}})
    assert ids(collection.order_by("v").stream()) == ["c", "a", "b"]
    assert ids(collection.where(filter=FieldFilter("v", ">", "x" * 1499)).stream()) == ["a", "b"]


def test_names_are_ordered_and_compared(client: Any) -> None:
    collection = fill(client, "c", {name: {"n": 1} for name in ("b", "a", "B", "é", "__id12__", "__id7__", "a-")})
    assert ids(collection.stream()) == ["__id7__", "__id12__", "B", "a", "a-", "b", "é"]
    name = "__name__"
    after = collection.where(filter=FieldFilter(name, ">", collection.document("a")))
    assert ids(after.stream()) == ["a-", "b", "é"]
    within = after.where(filter=FieldFilter(name, "<", collection.document("b")))
    assert ids(within.stream()) == ["a-"]
    some = [collection.document(one) for one in ("b", "none", "a")]
    assert ids(collection.where(filter=FieldFilter(name, "in", some)).stream()) == ["a", "b"]
    equal = collection.where(filter=FieldFilter("n", "==", 1)).order_by(name, direction="DESCENDING").limit(2)
    assert ids(equal.stream()) == ["é", "b"]


def test_names_alone_are_not_scanned_backwards(client: Any) -> None:
    with pytest.raises(exceptions.FailedPrecondition):
        list(client.collection("c").order_by("__name__", direction="DESCENDING").stream())


def numbers(client: Any) -> Any:
    return fill(client, "k", {name: {"n": number} for name, number in zip("abcdef", (1, 1, 2, 2, 3, 3), strict=True)})


def test_cursors_of_values(client: Any) -> None:
    ordered = numbers(client).order_by("n")
    assert ids(ordered.start_at({"n": 2}).stream()) == ["c", "d", "e", "f"]
    assert ids(ordered.start_after({"n": 2}).stream()) == ["e", "f"]
    assert ids(ordered.end_before({"n": 2}).stream()) == ["a", "b"]
    assert ids(ordered.end_at({"n": 2}).stream()) == ["a", "b", "c", "d"]
    assert ids(ordered.start_after({"n": 1.5}).end_at({"n": 2.5}).stream()) == ["c", "d"]
    assert ids(ordered.start_after({"n": 3}).stream()) == []


def test_cursors_of_snapshots_and_names(client: Any) -> None:
    collection = numbers(client)
    snapshot = collection.document("c").get()
    assert ids(collection.order_by("n").start_after(snapshot).stream()) == ["d", "e", "f"]
    descending = collection.order_by("n", direction="DESCENDING")
    assert ids(descending.start_after(snapshot).limit(2).stream()) == ["b", "a"]
    assert ids(collection.start_after(snapshot).stream()) == ["d", "e", "f"]
    by_name = collection.order_by("__name__")
    assert ids(by_name.start_after([collection.document("d")]).stream()) == ["e", "f"]
    assert ids(by_name.start_at({"__name__": "b"}).end_before({"__name__": "d"}).stream()) == ["b", "c"]
    filtered = collection.where(filter=FieldFilter("n", ">=", 1)).order_by("n").order_by("__name__")
    assert ids(filtered.start_after({"n": 2, "__name__": collection.document("c")}).limit(2).stream()) == ["d", "e"]


def test_pages_of_a_query_join_to_the_whole(client: Any) -> None:
    query = numbers(client).order_by("n", direction="DESCENDING")
    found: list[str] = []
    page = list(query.limit(4).stream())
    while page:
        found += ids(page)
        page = list(query.start_after(page[-1]).limit(4).stream())
    assert found == ids(query.stream()) == ["f", "e", "d", "c", "b", "a"]


def test_limits_offsets_and_the_last_few(client: Any) -> None:
    collection = numbers(client)
    assert ids(collection.limit(2).stream()) == ["a", "b"]
    assert ids(collection.offset(4).stream()) == ["e", "f"]
    assert ids(collection.order_by("n").offset(1).limit(2).stream()) == ["b", "c"]
    assert ids(collection.offset(9).stream()) == []
    assert ids(collection.order_by("n").limit_to_last(2).get()) == ["e", "f"]


def test_projections(client: Any) -> None:
    collection = fill(client, "c", {"a": {"n": 1, "m": {"x": 1, "y": 2}}, "b": {}})
    assert [one.to_dict() for one in collection.select(["m.x"]).stream()] == [{"m": {"x": 1}}, {}]
    names = list(collection.select(["__name__"]).stream())
    assert [(one.id, one.to_dict()) for one in names] == [("a", {}), ("b", {})]
    assert names[0].update_time is not None


def test_queries_stay_within_their_collection(client: Any) -> None:
    fill(client, "c", {"a": {"n": 1}, "b": {"n": 1}})
    fill(client, "c/a/s", {"1": {"n": 1}})
    fill(client, "c/missing/s", {"2": {"n": 1}})
    fill(client, "s", {"3": {"n": 1}})
    assert ids(client.collection("c").stream()) == ["a", "b"]
    assert ids(client.collection("c/a/s").stream()) == ["1"]
    assert ids(client.collection("none").stream()) == []
    assert ids(client.collection_group("s").stream()) == ["1", "2", "3"]
    from_a = {"collection_id": "s", "all_descendants": True}
    request = types.RunQueryRequest(parent=f"{root(client)}/c/a", structured_query={"from_": [from_a]})
    assert [one.document.name.rpartition("/")[2] for one in call(client, "run_query", request)] == ["1"]


@pytest.mark.parametrize(
    "bad",
    [
        {"from_": [{"collection_id": "a"}, {"collection_id": "b"}]},
        {"from_": [{"collection_id": "a/b"}]},
        {"from_": [{"collection_id": "a"}], "limit": -1},
        {"from_": [{"collection_id": "a"}], "offset": -1},
        {"from_": [{"collection_id": "a"}], "order_by": [{"field": {"field_path": "n"}}] * 2},
        {
            "from_": [{"collection_id": "a"}],
            "order_by": [{"field": {"field_path": "__name__"}}, {"field": {"field_path": "n"}}],
        },
        {"from_": [{"collection_id": "a"}], "start_at": {"values": [types.Value(integer_value=1)]}},
        {"from_": [{"collection_id": "a"}], "where": {}},
    ],
    ids=["two sources", "path", "limit", "offset", "order twice", "order after name", "cursor", "filter"],
)
def test_queries_that_are_refused(client: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(exceptions.InvalidArgument):
        structured(client, **bad)


# --- random queries --------------------------------------------------------------------------------------------------

SAMPLE: list[Any] = [None, True, 0, 1, 1.0, 2.5, math.nan, "", "a", "ab", b"a", [], [1], ["a", None], {}, {"x": 1}]
OPERATORS = ["LESS_THAN", "LESS_THAN_OR_EQUAL", "GREATER_THAN", "GREATER_THAN_OR_EQUAL", "EQUAL", "EQUAL", "NOT_EQUAL"]
OPERATORS += ["ARRAY_CONTAINS", "ARRAY_CONTAINS_ANY", "IN", "NOT_IN"]


class RandomQueries:
    """Documents and structured queries over a few fields and values, the same for the same seed."""

    def __init__(self, seed: int, base: str) -> None:
        self.random = random.Random(seed)
        self.base = base
        self.documents = {f"{self.random.choice(['c', 'c', 'c/a/c', 'e/x/c'])}/{n}": self.data() for n in range(50)}

    def data(self) -> dict[str, Any]:
        found = {field: self.random.choice(SAMPLE) for field in "pqr" if self.random.random() < 0.8}
        return found | ({"m": {"k": self.random.choice(SAMPLE)}} if self.random.random() < 0.3 else {})

    def operand(self, field: str) -> types.Value:
        if field == "__name__":
            return types.Value(reference_value=f"{self.base}/{self.random.choice(list(self.documents))}")
        return encode_value(self.random.choice(SAMPLE))

    def filter(self, depth: int = 0) -> dict[str, Any]:
        if depth < 2 and self.random.random() < 0.4:
            parts = [self.filter(depth + 1) for _ in range(self.random.randint(1, 3))]
            return {"composite_filter": {"op": self.random.choice(["AND", "AND", "OR"]), "filters": parts}}
        field = self.random.choice(["p", "q", "r", "m.k", "__name__"])
        op = self.random.choice(OPERATORS)
        if field == "__name__" and op.startswith("ARRAY"):
            op = "EQUAL"
        value = self.operand(field)
        if op in ("IN", "NOT_IN", "ARRAY_CONTAINS_ANY"):
            several = [value, *(self.operand(field) for _ in range(self.random.randint(0, 3)))]
            value = types.Value(array_value={"values": several})
        return {"field_filter": {"field": {"field_path": field}, "op": op, "value": value}}

    def query(self) -> types.StructuredQuery:
        query: dict[str, Any] = {"from_": [{"collection_id": "c", "all_descendants": self.random.random() < 0.3}]}
        if self.random.random() < 0.85:
            query["where"] = self.filter()
        fields = self.random.sample(["p", "q", "m.k"], self.random.choice([0, 0, 1, 1, 2]))
        fields += ["__name__"] if self.random.random() < 0.3 else []
        directions = [self.random.choice(["ASCENDING", "DESCENDING"]) for _ in fields]
        query["order_by"] = [
            {"field": {"field_path": field}, "direction": direction}
            for field, direction in zip(fields, directions, strict=True)
        ]
        for end in ("start_at", "end_at"):
            if fields and self.random.random() < 0.25:
                prefix = fields[: self.random.randint(1, len(fields))]
                position = [self.operand(field) for field in prefix]
                query[end] = {"values": position, "before": self.random.random() < 0.5}
        if self.random.random() < 0.3:
            query |= {"limit": self.random.randint(0, 8), "offset": self.random.randint(0, 3)}
        return types.StructuredQuery(query)


@pytest.mark.parametrize("seed", range(4))
def test_random_queries_are_answered_alike(
    seed: int, embedded_address: str, google_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = f"test-{uuid.uuid4().hex[:8]}"
    clients = []
    for address in (embedded_address, google_address):
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        clients.append(firestore.Client(project=project))
    made = RandomQueries(seed, root(clients[0]))
    for client in clients:
        batch = client.batch()
        for path, data in made.documents.items():
            batch.set(client.document(path), data)
        batch.commit()

    def answer(client: Any, query: types.StructuredQuery) -> list[str] | str:
        try:
            request = types.RunQueryRequest(parent=root(client), structured_query=query)
            return [one.document.name for one in call(client, "run_query", request) if one.document.name]
        except exceptions.GoogleAPICallError as error:
            return type(error).__name__

    for _ in range(250):
        query = made.query()
        embedded, google = (answer(client, query) for client in clients)
        assert embedded == google, query


# --- aggregation -----------------------------------------------------------------------------------------------------


def aggregated(query: Any) -> dict[str, Any]:
    return {one.alias: one.value for one in query.get()[0]}


def test_counts(client: Any) -> None:
    collection = numbers(client)
    assert aggregated(collection.count("all")) == {"all": 6}
    assert aggregated(collection.where(filter=FieldFilter("n", ">", 1)).count()) == {"field_1": 4}
    assert aggregated(collection.limit(4).count("n")) == {"n": 4}
    assert aggregated(client.collection("none").count("n")) == {"n": 0}
    assert aggregated(client.collection_group("k").count("n")) == {"n": 6}


def test_sums_and_averages(client: Any) -> None:
    collection = fill(client, "c", {"a": {"n": 1}, "b": {"n": 2}, "c": {"n": "x"}, "d": {"m": 1}})
    assert aggregated(collection.sum("n", "s").avg("n", "a").count("c")) == {"s": 3, "a": 1.5, "c": 3}
    # The client library turns the null that is the average of nothing into 0.0.
    assert aggregated(collection.sum("none", "s").avg("none", "a")) == {"s": 0, "a": 0}
    collection.document("e").set({"n": 0.5})
    assert aggregated(collection.sum("n", "s")) == {"s": 3.5}
    collection.document("e").set({"n": 2**63 - 1})
    assert aggregated(collection.sum("n", "s")) == {"s": float(2**63)}
    collection.document("e").set({"n": math.nan})
    assert math.isnan(aggregated(collection.avg("n", "a"))["a"])


def test_aggregations_that_are_refused(client: Any) -> None:
    for bad in ([], [{"alias": "a", "count": {}}] * 2):
        query = {"structured_query": {"from_": [{"collection_id": "c"}]}, "aggregations": bad}
        with pytest.raises(exceptions.InvalidArgument):
            call(
                client,
                "run_aggregation_query",
                types.RunAggregationQueryRequest(parent=root(client), structured_aggregation_query=query),
            )


# --- listing ---------------------------------------------------------------------------------------------------------


def test_collections_and_documents_are_listed_recursively(client: Any) -> None:
    fill(client, "c", {"a": {"n": 1}, "b": {"n": 2}})
    fill(client, "c/missing/s", {"1": {}})
    fill(client, "d", {"x": {}})
    assert [one.id for one in client.collections()] == ["c", "d"]
    assert [one.id for one in client.document("c/missing").collections()] == ["s"]
    assert [one.id for one in client.document("c/a").collections()] == []
    assert [one.id for one in client.collection("c").list_documents()] == ["a", "b", "missing"]
    assert [one.id for one in client.collection("c").list_documents(page_size=1)] == ["a", "b", "missing"]
    assert client.recursive_delete(client.collection("c")) == 3
    assert [one.id for one in client.collections()] == ["d"]


def test_documents_are_listed_by_page_and_order(client: Any) -> None:
    fill(client, "c", {"a": {"n": 2}, "b": {"n": 1}, "c": {"n": 2}, "d": {}})

    def listed(**fields: Any) -> list[list[str]]:
        request = types.ListDocumentsRequest(parent=root(client), collection_id="c", **fields)
        pages = client._firestore_api.list_documents(request).pages
        return [[one.name.rpartition("/")[2] for one in page.documents] for page in pages]

    assert listed(page_size=3) == [["a", "b", "c"], ["d"]]
    assert listed(order_by="n desc") == [["c", "a", "b"]]
    assert listed(order_by="n") == [["b", "a", "c"]]
    for bad in ({"page_token": "zzz"}, {"order_by": "n", "show_missing": True}):
        with pytest.raises(exceptions.InvalidArgument):
            listed(**bad)


# --- transactions ----------------------------------------------------------------------------------------------------


def test_a_transaction_reads_and_writes(client: Any) -> None:
    fill(client, "c", {"a": {"n": 1}, "b": {"n": 10}})

    @firestore.transactional
    def add(transaction: Any) -> int:
        first = client.document("c/a").get(transaction=transaction).get("n")
        others = [one.get("n") for one in client.collection("c").order_by("n").stream(transaction=transaction)]
        counted = client.collection("c").count("all").get(transaction=transaction)[0][0].value
        transaction.update(client.document("c/a"), {"n": first + sum(others)})
        transaction.create(client.document("c/new"), {"n": counted})
        transaction.delete(client.document("c/b"))
        return int(first)

    assert add(client.transaction()) == 1
    assert {one.id: one.get("n") for one in client.collection("c").stream()} == {"a": 12, "new": 2}


def test_a_transaction_that_raises_leaves_nothing(client: Any) -> None:
    @firestore.transactional
    def fail(transaction: Any) -> None:
        transaction.set(client.document("c/a"), {"n": 1})
        raise LookupError

    with pytest.raises(LookupError):
        fail(client.transaction())
    assert not client.document("c/a").get().exists


def test_transactions_in_contention_lose_no_update(client: Any) -> None:
    document = client.document("c/counter")
    document.set({"n": 0})

    @firestore.transactional
    def add_one(transaction: Any) -> None:
        # Google's emulator holds locks, and the client retries at once: in step, all could abort one another for ever.
        time.sleep(random.random() / 4)
        transaction.update(document, {"n": document.get(transaction=transaction).get("n") + 1})

    failures: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(2):
                add_one(client.transaction(max_attempts=30))
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=run) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert failures == []
    assert document.get().get("n") == 6


def begin(client: Any, **options: Any) -> bytes:
    request = types.BeginTransactionRequest(database=client._database_string, options=options)
    answer: bytes = call(client, "begin_transaction", request).transaction
    return answer


def rollback(client: Any, transaction: bytes) -> None:
    call(client, "rollback", types.RollbackRequest(database=client._database_string, transaction=transaction))


def read(client: Any, *paths: str, **fields: Any) -> list[Any]:
    names = [f"{root(client)}/{path}" for path in paths]
    request = types.BatchGetDocumentsRequest(database=client._database_string, documents=names, **fields)
    found: list[Any] = call(client, "batch_get_documents", request)
    return found


def setting(client: Any, path: str, number: int) -> types.Write:
    return types.Write(update={"name": f"{root(client)}/{path}", "fields": {"n": types.Value(integer_value=number)}})


def test_a_closed_transaction_is_of_no_use(client: Any) -> None:
    for close in (lambda one: rollback(client, one), lambda one: commit(client, transaction=one)):
        transaction = begin(client)
        close(transaction)
        with pytest.raises(exceptions.InvalidArgument):
            commit(client, setting(client, "c/a", 1), transaction=transaction)
        with pytest.raises(exceptions.InvalidArgument):
            read(client, "c/a", transaction=transaction)
        rollback(client, transaction)
        rollback(client, begin(client, read_write={"retry_transaction": transaction}))
    with pytest.raises(exceptions.InvalidArgument):
        read(client, "c/a", transaction=b"nonsense")
    with pytest.raises(exceptions.InvalidArgument):
        begin(client, read_write={"retry_transaction": b"nonsense"})


def test_a_failed_precondition_closes_the_transaction_and_a_malformed_write_does_not(client: Any) -> None:
    client.document("c/a").set({"n": 1})
    transaction = begin(client)
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, setting(client, "c/__a__", 1), transaction=transaction)
    existing = setting(client, "c/a", 2)
    existing.current_document = types.Precondition(exists=False)
    with pytest.raises(exceptions.AlreadyExists):
        commit(client, existing, transaction=transaction)
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, transaction=transaction)


def test_a_transaction_may_begin_with_a_read(client: Any) -> None:
    client.document("c/a").set({"n": 1})
    opened, found = read(client, "c/a", new_transaction={"read_write": {}})
    assert opened.transaction
    assert not opened.found.name
    assert found.found.fields["n"].integer_value == 1
    commit(client, setting(client, "c/a", 2), transaction=opened.transaction)
    query = {"from_": [{"collection_id": "c"}]}
    request = types.RunQueryRequest(parent=root(client), structured_query=query, new_transaction={"read_only": {}})
    opened, found = call(client, "run_query", request)
    assert opened.transaction
    assert found.document.fields["n"].integer_value == 2


def test_a_read_only_transaction_sees_one_moment_and_writes_nothing(client: Any) -> None:
    client.document("c/a").set({"n": 1})
    past = client.document("c/a").get().read_time
    time.sleep(0.01)
    client.document("c/a").set({"n": 2})
    transaction = begin(client, read_only={"read_time": past})
    assert read(client, "c/a", transaction=transaction)[0].found.fields["n"].integer_value == 1
    with pytest.raises(exceptions.InvalidArgument):
        commit(client, setting(client, "c/a", 3), transaction=transaction)
    assert read(client, "c/a", read_time=past)[0].found.fields["n"].integer_value == 1
    assert client.document("c/a").get().get("n") == 2
    with pytest.raises(exceptions.InvalidArgument):
        read(client, "c/a", read_time=datetime.now(UTC) + timedelta(hours=1))


# --- the asynchronous client -----------------------------------------------------------------------------------------


def test_the_asynchronous_client(connect: Connect) -> None:
    async def scenario() -> None:
        client = connect(firestore.AsyncClient)
        document = client.document("c/a")
        await document.create({"n": 1, "tags": ["x"]})
        with pytest.raises(exceptions.AlreadyExists):
            await document.create({"n": 1})
        read = await document.get()
        await document.update(
            {"n": firestore.Increment(1), "tags": firestore.ArrayUnion(["y"]), "at": firestore.SERVER_TIMESTAMP},
            option=client.write_option(last_update_time=read.update_time),
        )
        with pytest.raises(exceptions.FailedPrecondition):
            await document.delete(option=client.write_option(last_update_time=read.update_time))
        batch = client.batch()
        for number in range(2, 6):
            batch.set(client.document(f"c/{number}"), {"n": number})
        await batch.commit()
        query = client.collection("c").order_by("n").limit(3)
        page = [one async for one in query.stream()]
        assert ids(page) == ["2", "a", "3"]
        assert ids([one async for one in query.start_after(page[-1]).stream()]) == ["4", "5"]
        assert (await client.collection("c").count("all").get())[0][0].value == 5
        found = {one.id: one.exists async for one in client.get_all([document, client.document("c/none")])}
        assert found == {"a": True, "none": False}
        assert [one.id async for one in client.collections()] == ["c"]
        client.close()

    asyncio.run(scenario())


def test_asynchronous_transactions_in_contention_lose_no_update(connect: Connect) -> None:
    async def scenario() -> None:
        client = connect(firestore.AsyncClient)
        document = client.document("c/counter")
        await document.set({"n": 0})

        @firestore.async_transactional
        async def add_one(transaction: Any) -> None:
            await asyncio.sleep(random.random() / 4)
            snapshot = await document.get(transaction=transaction)
            transaction.update(document, {"n": snapshot.get("n") + 1})

        await asyncio.gather(*(add_one(client.transaction(max_attempts=30)) for _ in range(4)))
        assert (await document.get()).get("n") == 4
        client.close()

    asyncio.run(scenario())


# --- ours alone: what production refuses -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "refused",
    [
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).order_by("y"),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).where(filter=FieldFilter("y", ">", 1)),
        lambda c: c.where(filter=FieldFilter("x", ">", 1)).where(filter=FieldFilter("y", ">", 1)),
        lambda c: c.where(filter=FieldFilter("x", "in", [1, 2])).order_by("y"),
        lambda c: c.where(filter=FieldFilter("x", "array_contains", 1)).order_by("y"),
        lambda c: c.where(filter=FieldFilter("x", "array_contains", 1)).order_by("__name__", direction="DESCENDING"),
        lambda c: c.where(filter=Or([FieldFilter("x", "==", 1), FieldFilter("y", ">", 1)])),
        lambda c: c.where(filter=FieldFilter("__name__", ">", c.document("a"))).order_by("x"),
        lambda c: c.where(
            filter=Or([FieldFilter("x", "==", 1), FieldFilter("__name__", ">", c.document("a"))])
        ).order_by("__name__", direction="DESCENDING"),
        lambda c: c.order_by("x").order_by("y"),
        lambda c: c.order_by("x", direction="DESCENDING").order_by("__name__"),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).sum("y"),
        lambda c: c.sum("x").avg("y"),
        lambda c: c.order_by("x").sum("y"),
        lambda c: c._client.collection_group("c").order_by("x"),
        lambda c: c._client.collection_group("c").where(filter=FieldFilter("x", "==", 1)),
        lambda c: c._client.collection_group("c").sum("x"),
    ],
)
def test_a_query_that_needs_a_declared_index_is_refused(ours: Any, refused: Callable[[Any], Any]) -> None:
    with pytest.raises(exceptions.FailedPrecondition, match="The query requires an index"):
        list(refused(ours.collection("c")).stream())


@pytest.mark.parametrize(
    "served",
    [
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).where(filter=FieldFilter("y", "==", 1)),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).where(filter=FieldFilter("l", "array_contains", 1)),
        lambda c: c.where(filter=FieldFilter("x", "in", [1, 2])).where(filter=FieldFilter("y", "in", [1, 2])),
        lambda c: c.where(filter=FieldFilter("x", ">", 1)).where(filter=FieldFilter("x", "<", 5)),
        lambda c: c.where(filter=FieldFilter("x", ">", 1)).order_by("x", direction="DESCENDING"),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).order_by("x"),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).where(filter=FieldFilter("__name__", ">", c.document("a"))),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).order_by("__name__", direction="DESCENDING"),
        lambda c: c.where(filter=Or([FieldFilter("x", "==", 1), FieldFilter("y", "==", 1)])),
        lambda c: c.where(filter=FieldFilter("x", "!=", 1)),
        lambda c: c.order_by("x").order_by("__name__"),
        lambda c: c.order_by("x", direction="DESCENDING").order_by("__name__", direction="DESCENDING"),
        lambda c: c.where(filter=FieldFilter("x", ">", 1)).count(),
        lambda c: c.where(filter=FieldFilter("x", ">", 1)).sum("x"),
        lambda c: c.where(filter=FieldFilter("x", "==", 1)).sum("x"),
        lambda c: c._client.collection_group("c").order_by("__name__"),
        lambda c: c._client.collection_group("c").count(),
    ],
)
def test_a_query_that_automatic_indexes_serve_is_answered(ours: Any, served: Callable[[Any], Any]) -> None:
    list(served(ours.collection("c")).stream())


def test_limits_that_only_production_and_we_enforce(ours: Any) -> None:
    transforms = [{"field_path": f"f{n}", "increment": types.Value(integer_value=1)} for n in range(501)]
    document = {"document": f"{root(ours)}/c/d", "field_transforms": transforms}
    with pytest.raises(exceptions.InvalidArgument, match="field transformations"):
        commit(ours, types.Write(transform=document))
    with pytest.raises(exceptions.InvalidArgument, match="index entries"):
        ours.document("c/d").set({"m": {f"f{n}": n for n in range(20_001)}})
    with pytest.raises(exceptions.InvalidArgument, match="document name"):
        commit(ours, setting(ours, "/".join(["a" * 1400] * 6), 1))
    with pytest.raises(exceptions.InvalidArgument, match="not in the database"):
        commit(ours, types.Write(delete="projects/other/databases/(default)/documents/c/d"))
    batch = ours.batch()
    for number in range(11):
        batch.set(ours.document(f"c/{number}"), {"v": b"x" * 1_000_000})
    with pytest.raises(exceptions.InvalidArgument, match="payload size"):
        batch.commit()
    with pytest.raises(exceptions.InvalidArgument, match="500"):
        call(
            ours,
            "batch_write",
            types.BatchWriteRequest(
                database=ours._database_string, writes=[setting(ours, f"c/{n}", n) for n in range(501)]
            ),
        )
    assert ids(ours.collection("c").stream()) == []


def test_each_map_counts_32_bytes_as_documented(ours: Any) -> None:
    # Google's emulator counts a map as the sum of its fields.
    extra, size = {"m": {"k": {}}, "l": [{}]}, 2 + 32 + 2 + 32 + 2 + 32
    room = 1_048_576 - (2 + 2 + 16) - 32 - 4 - size
    ours.document("c/d").set({"a": b"x" * 500_000, "b": b"x" * (room - 500_000), **extra})
    with pytest.raises(exceptions.InvalidArgument):
        ours.document("c/d").set({"a": b"x" * 500_000, "b": b"x" * (room - 500_000 + 1), **extra})


def test_an_ordered_list_of_documents_has_pages(ours: Any) -> None:
    # Google's emulator fails on the second page of an ordered list.
    fill(ours, "c", {"a": {"n": 2}, "b": {"n": 1}, "c": {"n": 2}, "d": {"n": 0}})
    request = types.ListDocumentsRequest(parent=root(ours), collection_id="c", order_by="n desc", page_size=3)
    pages = [[one.name[-1] for one in page.documents] for page in ours._firestore_api.list_documents(request).pages]
    assert pages == [["c", "a", "b"], ["d"]]


def test_a_commit_of_10_mib_passes(ours: Any) -> None:
    batch = ours.batch()
    for number in range(10):
        batch.set(ours.document(f"c/{number}"), {"v": b"x" * 1_040_000})
    assert len(batch.commit()) == 10


# --- ours alone: optimistic transactions -----------------------------------------------------------------------------


def test_a_transaction_aborts_if_a_document_it_read_has_changed(ours: Any) -> None:
    ours.document("c/a").set({"n": 1})
    first, second = begin(ours), begin(ours)
    for transaction in (first, second):
        assert read(ours, "c/a", transaction=transaction)[0].found.fields["n"].integer_value == 1
    commit(ours, setting(ours, "c/a", 2), transaction=first)
    assert read(ours, "c/a", transaction=second)[0].found.fields["n"].integer_value == 1
    with pytest.raises(exceptions.Aborted):
        commit(ours, setting(ours, "c/a", 3), transaction=second)
    assert ours.document("c/a").get().get("n") == 2


@pytest.mark.parametrize("change", ["made", "deleted", "changed"])
def test_a_transaction_aborts_if_the_result_of_its_query_has_changed(ours: Any, change: str) -> None:
    fill(ours, "c", {"a": {"n": 1}, "b": {"n": 5}})
    transaction = ours.transaction()
    transaction._begin()
    assert ids(ours.collection("c").where(filter=FieldFilter("n", "<", 3)).stream(transaction=transaction)) == ["a"]
    match change:
        case "made":
            ours.document("c/new").set({"n": 2})
        case "deleted":
            ours.document("c/a").delete()
        case "changed":
            ours.document("c/a").update({"other": 1})
    ours.document("c/b").update({"n": 6})
    transaction.set(ours.document("d/x"), {})
    with pytest.raises(exceptions.Aborted):
        transaction._commit()


def test_a_transaction_commits_if_only_others_have_changed(ours: Any) -> None:
    fill(ours, "c", {"a": {"n": 1}, "b": {"n": 5}})
    transaction = ours.transaction()
    transaction._begin()
    list(ours.collection("c").where(filter=FieldFilter("n", "<", 3)).stream(transaction=transaction))
    ours.document("c/none").get(transaction=transaction)
    ours.document("c/b").update({"n": 6})
    ours.document("c/a").update({"n": 1})
    transaction.set(ours.document("d/x"), {})
    transaction._commit()
    assert ours.document("d/x").get().exists


def test_a_transaction_aborts_if_a_document_it_missed_was_made(ours: Any) -> None:
    transaction = begin(ours)
    assert read(ours, "c/a", transaction=transaction)[0].missing
    ours.document("c/a").set({"n": 1})
    with pytest.raises(exceptions.Aborted):
        commit(ours, setting(ours, "c/a", 2), transaction=transaction)


def test_idle_transactions_expire(ours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    transaction = begin(ours)
    monkeypatch.setattr(store, "TRANSACTION_IDLE", 0.0)
    with pytest.raises(exceptions.InvalidArgument, match="expired"):
        commit(ours, transaction=transaction)


def test_old_versions_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "VERSION_RETENTION", 0)
    one, database = store.Store(), "projects/p/databases/d"

    def write(name: str, number: int | None) -> int:
        message = types.Write.pb()()
        if number is None:
            message.delete = f"{database}/documents/c/{name}"
        else:
            message.update.name = f"{database}/documents/c/{name}"
            message.update.fields["n"].integer_value = number
        return one.commit(database, [store.check_write(message, database)])[1]

    options = types.TransactionOptions.pb()()
    options.read_only.SetInParent()
    write("a", 1)
    reader = one.begin(database, options)
    moment = one.snapshot(reader)
    for number in range(2, 9):
        write("a", number)
    write("b", 1)
    write("b", None)
    seen = one.version(database, ("c", "a"), moment)
    assert seen is not None
    assert seen.document.fields["n"].integer_value == 1
    one.rollback(database, reader.id)
    write("z", 1)
    write("z", 2)
    kept = one._databases[database]["c",]
    assert {name: len(versions) for name, versions in kept.items()} == {"a": 1, "z": 1}


# --- ours alone: the emulator as a product ---------------------------------------------------------------------------


def test_reads_are_counted_as_production_bills_them(emulator: FirestoreEmulator, ours: Any) -> None:
    fill(ours, "c", {str(number): {"n": number} for number in range(5)})
    assert (emulator.reads, emulator.writes, emulator.deletes) == (0, 5, 0)

    def reads(run: Callable[[], Any]) -> int:
        emulator.reset_counts()
        run()
        return emulator.reads

    c = ours.collection("c")
    assert reads(lambda: c.document("0").get()) == 1
    assert reads(lambda: c.document("none").get()) == 1
    assert reads(lambda: list(ours.get_all([c.document("0"), c.document("none")]))) == 2
    assert reads(lambda: list(c.stream())) == 5
    assert reads(lambda: list(c.limit(2).stream())) == 2
    assert reads(lambda: list(c.offset(2).limit(2).stream())) == 4
    assert reads(lambda: list(ours.collection("none").stream())) == 1
    assert reads(lambda: c.count().get()) == 1
    assert reads(lambda: list(c.list_documents())) == 5
    assert reads(lambda: c.document("0").update({"n": 9})) == 0
    c.document("0").delete()
    assert (emulator.writes, emulator.deletes) == (1, 1)
    assert emulator.requests == {"Commit": 2}


def test_aggregations_cost_a_read_for_each_thousand(emulator: FirestoreEmulator, ours: Any) -> None:
    fill(ours, "c", {str(number): {} for number in range(1001)})
    emulator.reset_counts()
    assert aggregated(ours.collection("c").count("all")) == {"all": 1001}
    assert emulator.reads == 2


def test_a_refused_batch_counts_nothing(emulator: FirestoreEmulator, ours: Any) -> None:
    with pytest.raises(exceptions.NotFound):
        ours.document("c/none").update({"n": 1})
    assert emulator.writes == 0
    assert emulator.requests["Commit"] == 1


def test_before_call_injects_errors(emulator: FirestoreEmulator, ours: Any) -> None:
    def fail_commits(rpc: str) -> None:
        if rpc == "Commit":
            raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "quota")

    emulator.before_call = fail_commits
    with pytest.raises(exceptions.ResourceExhausted):
        ours.document("c/a").set({}, retry=None)
    emulator.before_call = None
    ours.document("c/a").set({})


@pytest.mark.parametrize(
    ("rpc", "request_"),
    [
        ("listen", iter([types.ListenRequest()])),
        ("write", iter([types.WriteRequest()])),
        ("partition_query", types.PartitionQueryRequest()),
    ],
)
def test_the_rest_is_unimplemented(ours: Any, rpc: str, request_: Any) -> None:
    with pytest.raises(exceptions.MethodNotImplemented):
        list(getattr(ours._firestore_api, rpc)(request_, retry=None, timeout=10))


def test_vector_search_is_unimplemented(ours: Any) -> None:
    query = ours.collection("c").find_nearest("v", Vector([1.0]), limit=1, distance_measure=DistanceMeasure.COSINE)
    with pytest.raises(exceptions.MethodNotImplemented):
        query.get()


def test_clear_drops_documents_and_stop_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = FirestoreEmulator()

    def connected() -> Any:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", emulator.address)
        return firestore.Client(project="p")

    with emulator:
        connected().document("c/a").set({"n": 1})
    with pytest.raises(RuntimeError):
        _ = emulator.address
    with emulator:
        assert connected().document("c/a").get().exists
        emulator.clear()
        assert not connected().document("c/a").get().exists
        with pytest.raises(RuntimeError):
            emulator.start()
    emulator.stop()


def test_stopping_leaves_no_thread_and_frees_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    def workers() -> list[threading.Thread]:
        return [one for one in threading.enumerate() if one.name.startswith("firestore-emulator")]

    # Other emulators of this session may be running.
    before = {one.ident for one in workers()}
    with FirestoreEmulator() as address:
        monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", address)
        firestore.Client(project="p").document("c/a").set({})
        assert len(workers()) > len(before)
        with pytest.raises(OSError, match="cannot listen"):
            FirestoreEmulator(address).start()
    assert {one.ident for one in workers()} == before
    with FirestoreEmulator(address) as again:
        assert again == address


def test_many_threads_may_use_it_at_once(emulator: FirestoreEmulator, ours: Any) -> None:
    def run(worker: int) -> None:
        for number in range(20):
            ours.document(f"c/{worker}-{number}").set({"n": number})
            ours.document("c/counter").set({"n": firestore.Increment(1)}, merge=True)

    threads = [threading.Thread(target=run, args=(worker,)) for worker in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert ours.document("c/counter").get().get("n") == 160
    assert emulator.writes == 320


def test_the_pytest_plugin_gives_an_address(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["agno_docstores_firestore.emulator.pytest_plugin"]\n')
    (tmp_path / "test_it.py").write_text(
        "import os\n"
        "from google.cloud import firestore\n"
        "def test_it(firestore_emulator):\n"
        "    assert os.environ['FIRESTORE_EMULATOR_HOST'] == firestore_emulator\n"
        "    firestore.Client(project='p').document('c/a').set({'n': 1})\n"
    )
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert "1 passed" in run.stdout, run.stdout + run.stderr


def test_it_runs_by_itself() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "agno_docstores_firestore.emulator", "--host-port", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip().removeprefix("export FIRESTORE_EMULATOR_HOST=")
        with grpc.insecure_channel(address) as channel:
            grpc.channel_ready_future(channel).result(timeout=20)
    finally:
        process.terminate()
        assert process.wait(20) == 0
