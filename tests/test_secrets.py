"""Credentials reach the client and nothing else; errors name the operation, the ids and the server's own reason.

No server is reached: clients are made and looked at, and addresses refuse connections.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pymongo.errors
import pytest
from agno.db.utils import is_unique_violation
from botocore.config import Config
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions as gcp
from google.auth.exceptions import RefreshError
from google.oauth2 import service_account

from agno_docstores import DocstoreError, InvalidIdError, StoreError
from agno_docstores.conformance.evals import eval_of
from agno_docstores.conformance.memories import memory_of
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.sessions import agent_session, run_of
from agno_docstores.io import run
from agno_docstores.port import EVERYTHING, Span
from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore
from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore
from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore
from tests.faults import Down

PASSWORD, KEY_ID, TOKEN = "hunter2/p@ss", "AKIAHUNTER2", "token-hunter2"
NOWHERE = "127.0.0.1:9"  # refuses connections
MONGO_URL = (
    f"mongodb://app:hunter2%2Fp%40ss@{NOWHERE}/admin?authSource=users&authMechanism=SCRAM-SHA-1"
    "&tlsCertificateKeyFilePassword=hunter2&serverSelectionTimeoutMS=50"
)
KEYS = {"aws_access_key_id": KEY_ID, "aws_secret_access_key": PASSWORD, "aws_session_token": TOKEN}
AWS: dict[str, Any] = {
    "region_name": "us-east-1",
    "endpoint_url": f"http://app:hunter2@{NOWHERE}",
    "config": Config(connect_timeout=1, retries={"total_max_attempts": 1}),
    **KEYS,
}
STORES: dict[str, tuple[type[Any], type[Any]]] = {
    "mongo": (MongoDocstore, AsyncMongoDocstore),
    "dynamo": (DynamoDocstore, AsyncDynamoDocstore),
    "firestore": (FirestoreDocstore, AsyncFirestoreDocstore),
}
EVERY = [pytest.param(store, kind, id=kind.__name__) for store, kinds in STORES.items() for kind in kinds]


@pytest.fixture(scope="module")
def private_key() -> str:
    key = rsa.generate_private_key(65537, 2048)
    form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(*form).decode()


@pytest.fixture
def account(private_key: str) -> service_account.Credentials:
    info = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": KEY_ID,
        "private_key": private_key,
        "client_email": "app@p.iam.gserviceaccount.com",
        "token_uri": f"http://{NOWHERE}/token",
    }
    credentials: service_account.Credentials = service_account.Credentials.from_service_account_info(info)  # type: ignore[no-untyped-call]
    credentials.token = TOKEN
    return credentials


@pytest.fixture
def make(account: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, type[Any]], Any]:
    """A store with credentials, where nobody answers."""
    monkeypatch.setenv("FIRESTORE_EMULATOR_HOST", NOWHERE)
    options: dict[str, dict[str, Any]] = {
        "mongo": {"db_url": MONGO_URL},
        "dynamo": AWS,
        "firestore": {"credentials": account, "database": "d"},
    }
    return lambda store, kind: kind(**options[store])


def tell_nothing(private_key: str, *texts: object) -> None:
    secrets = (PASSWORD, "hunter2", KEY_ID, TOKEN, "app:", *private_key.splitlines()[1:3])
    for text in map(str, texts):
        assert not [secret for secret in secrets if secret.lower() in text.lower()], text


def chain(error: BaseException | None) -> Iterator[str]:
    """All that a log of an error, and of those that it came of, would say."""
    while error is not None:
        yield from (str(error), repr(error), *getattr(error, "__notes__", ()))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(("store", "kind"), EVERY)
def test_a_store_tells_no_secret_and_comes_back_without(
    store: str, kind: type[Any], make: Callable[..., Any], private_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def everything_told() -> None:
        db = make(store, kind)
        db.io.jitter = lambda: 0.0  # nobody will answer, however long it is waited
        told = db.to_dict()
        again = kind.from_dict(json.loads(json.dumps(told)))
        assert (again.id, again.to_dict(), repr(again)) == (db.id, told, repr(db))
        parts = (db, db._engine, db._engine.driver, db._engine.kernel, db.io)
        tell_nothing(private_key, db.id, told, repr(db), db, *(repr(vars(part)) for part in parts))
        tell_nothing(private_key, *(db._engine.driver.create_command(name) for name in db._engine.driver.kinds))
        calls = Awaitable(db)
        for call in (lambda: calls.get_session("s1"), lambda: calls.upsert_session(agent_session("s1"))):
            with pytest.raises(StoreError) as caught:
                await call()
            assert NOWHERE in str(caught.value) and "'s1'" in str(caught.value)
            tell_nothing(private_key, *chain(caught.value))
        await calls.upsert_trace(object())  # logs what it cannot store
        await close(db)

    with caplog.at_level(logging.DEBUG, logger="agno_docstores"):
        asyncio.run(everything_told())
    assert caplog.records
    tell_nothing(private_key, *(record.getMessage() for record in caplog.records))


class Refusing:
    """A hook of the gateway: each call is refused with what the store's SDK raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def before(self, operation: str) -> None:
        raise self.error

    def after(self, operation: str) -> None: ...


#: As AWS says it: the canonical request has the headers, and so the session token.
SIGNATURE = ClientError(
    {
        "Error": {
            "Code": "InvalidSignatureException",
            "Message": "The request signature we calculated does not match. The Canonical String should have been "
            f"'POST\n/\n\nx-amz-security-token:{TOKEN}\n\nhost' (Credential={KEY_ID}/20260101)",
        },
        "ResponseMetadata": {"HTTPStatusCode": 400},
    },
    "GetItem",
)


@pytest.mark.parametrize(
    ("store", "error", "reason"),
    [
        (
            "mongo",
            pymongo.errors.OperationFailure("bad auth", 18, {"errmsg": "Authentication failed."}),
            "Authentication",
        ),
        ("dynamo", SIGNATURE, "InvalidSignatureException"),
        ("firestore", RefreshError("invalid_grant: Invalid JWT Signature."), "invalid_grant"),
    ],
)
def test_refused_credentials_are_named_and_not_told(
    store: str, error: Exception, reason: str, make: Callable[..., Any], private_key: str
) -> None:
    db = make(store, STORES[store][0])
    db.io.hooks.append(Refusing(error))
    with pytest.raises(StoreError, match=reason) as caught:
        db.get_session("s1")
    assert caught.value.__cause__ is error
    tell_nothing(private_key, *chain(caught.value))


DENIED: dict[str, Exception] = {
    "mongo": pymongo.errors.OperationFailure(
        "x", 13, {"errmsg": "not authorized on agents", "codeName": "Unauthorized"}
    ),
    "dynamo": ClientError(
        {"Error": {"Code": "AccessDeniedException", "Message": "not authorized on agents"}}, "PutItem"
    ),
    "firestore": gcp.PermissionDenied("not authorized on agents"),
}


@pytest.mark.cells("mongo-sync-mongomock", "mongo-async-secantus", "dynamo-sync-moto", "firestore-*-embedded")
async def test_an_error_names_the_operation_the_ids_and_the_servers_own_reason(cell: Any, db: Any) -> None:
    await db._create_all_tables()
    await db.upsert_session(agent_session("s1", user_id="u1"))
    db.io.hooks.append(Refusing(DENIED[cell.store]))
    calls: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: db.get_session("s1"), ["sessions 's1'", "histories 's1'"]),
        (lambda: db.upsert_session(agent_session("s2")), ["'s2'"]),
        (lambda: db.upsert_run(run_of("r1"), "s1", "u1"), ["'s1'"]),
        (lambda: db.get_run("r1"), ["runs 'r1'"]),
        (lambda: db.get_sessions(user_id="u9"), ["sessions", "'u9'"]),
        (lambda: db.count_sessions("u9"), ["sessions", "'u9'"]),
        (lambda: db.upsert_user_memory(memory_of("m1")), ["memories 'm1'"]),
        (lambda: db.upsert_memories([memory_of(f"m{n}") for n in range(7)]), ["memories 'm0'", "and 2 more"]),
        (lambda: db.delete_user_memories(["m1", "m2"], user_id="u1"), ["memories 'm1', memories 'm2'"]),
        (lambda: db.create_eval_run(eval_of("e1")), ["evals 'e1'"]),
        (lambda: db.get_knowledge_contents(limit=5, linked_to="base"), ["knowledge", "'base'"]),
    ]
    for call, names in calls:
        with pytest.raises(StoreError) as caught:
            await call()
        text = str(caught.value)
        assert caught.value.operation in text and "not authorized on agents" in text
        assert all(name in text for name in names), text
        assert isinstance(caught.value.__cause__, type(DENIED[cell.store]))


# --- What may be used by whoever has it -------------------------------------------------------------------------------

TRANSACTION, PARAMETERS, SIGNING = "txn-hunter2", '{"state":"hunter2"}', "key-hunter2"


def store_transaction(db: Any) -> None:
    db.store_mcp_oauth_transaction(
        txn_id=TRANSACTION, client_id="c", params=PARAMETERS, expires_at=9, now=1, max_pending=9
    )


OAUTH: list[Callable[[Any], Any]] = [
    store_transaction,
    lambda db: db.get_mcp_oauth_transaction(TRANSACTION),
    lambda db: db.consume_mcp_oauth_transaction(TRANSACTION, 1),
    lambda db: db.store_mcp_oauth_code(code_hash="c", payload=PARAMETERS, expires_at=9, now=1),
    lambda db: db.delete_mcp_oauth_code("c"),
    lambda db: db.store_mcp_oauth_refresh(
        token_hash="r", client_id="c", scopes=PARAMETERS, expires_at=9, now=1, family_id="f"
    ),
    lambda db: db.create_mcp_oauth_client(
        client_id="new", client_metadata=PARAMETERS, now=1, unconsumed_ttl=9, max_clients=9
    ),
    lambda db: db.insert_mcp_oauth_key(kid="k", secret=SIGNING, created_at=1),
    lambda db: db.get_mcp_oauth_keys(),
]


@pytest.mark.cells("memory-sync", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-sync-embedded")
@pytest.mark.parametrize("call", OAUTH)
def test_no_message_tells_what_an_oauth_flow_is_good_for(
    cell: Any, call: Callable[[Any], Any], private_key: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whichever of its calls the store fails at, from there on."""
    with caplog.at_level(logging.DEBUG, logger="agno_docstores"), cell.storage() as name:
        db = cell.open(name)
        db._create_all_tables()
        db.io.jitter = lambda: 0.0
        for since in itertools.count(1):
            db.io.hooks.clear()
            if call is not store_transaction and db.get_mcp_oauth_transaction(TRANSACTION) is None:
                store_transaction(db)
            down = Down(cell.store, since=since)
            db.io.hooks.append(down)
            try:
                call(db)
            except DocstoreError as error:
                tell_nothing(private_key, *chain(error))
            if not down.struck:
                break
        db.io.hooks.clear()
        db.close()
    assert since > 1
    tell_nothing(private_key, *(record.getMessage() for record in caplog.records))


@pytest.mark.cells("memory-sync", "mongo-sync-standalone", "dynamo-sync-moto", "firestore-sync-embedded")
def test_nor_does_a_refusal_of_one_or_the_store_itself(cell: Any, private_key: str) -> None:
    with cell.storage() as name:
        db = cell.open(name)
        store_transaction(db)
        with pytest.raises(Exception) as caught:
            store_transaction(db)
        assert is_unique_violation(caught.value)
        tell_nothing(private_key, *chain(caught.value))
        for bad in (f"{TRANSACTION}\ud800", "", TRANSACTION.encode(), [TRANSACTION]):
            with pytest.raises(InvalidIdError, match="txn_id") as invalid:
                db.get_mcp_oauth_transaction(bad)
            tell_nothing(private_key, *chain(invalid.value))
        assert db.get_mcp_oauth_transaction(TRANSACTION) == (PARAMETERS, 9)
        kernel = db._engine.kernel
        (record,) = run(kernel.span(Span("mcp_oauth_transactions", EVERYTHING)))
        tell_nothing(private_key, record.ref, record.fields)
        db.close()


# --- What reaches the client ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", STORES["mongo"])
def test_a_url_reaches_the_client_of_mongodb_whole(kind: type[Any]) -> None:
    async def look() -> None:
        url = MONGO_URL.replace("&tlsCertificateKeyFilePassword=hunter2", "")
        db = kind(db_url=f"{url}&tls=true&tlsAllowInvalidHostnames=true&replicaSet=rs&maxPoolSize=7&retryWrites=false")
        await db._engine.driver.open()
        options = db._engine.driver.clients.current().client.options
        credentials, pool = options.pool_options._credentials, options.pool_options
        assert (credentials.username, credentials.password) == ("app", PASSWORD)
        assert (credentials.source, credentials.mechanism) == ("users", "SCRAM-SHA-1")
        assert pool._ssl_context is not None and pool.tls_allow_invalid_hostnames is True
        assert (options.replica_set_name, pool.max_pool_size, options.retry_writes) == ("rs", 7, False)
        await close(db)

    asyncio.run(look())


@pytest.mark.parametrize("kind", STORES["mongo"])
def test_a_client_of_mongodb_that_cannot_be_made_is_an_error_of_ours(kind: type[Any], private_key: str) -> None:
    async def connect(url: str) -> None:
        db = Awaitable(kind(db_url=url))
        with pytest.raises(StoreError) as caught:
            await db.get_session("s1")
        assert "'s1'" in str(caught.value) and db.raw._engine.driver.address() in str(caught.value)
        tell_nothing(private_key, *chain(caught.value))

    for url in (
        f"mongodb://app:hunter2@{NOWHERE}/?tls=true&tlsCAFile=/nowhere/ca.pem",
        "mongodb+srv://app:hunter2@nowhere.invalid/",
    ):
        asyncio.run(connect(url))


def test_a_profile_reaches_the_async_client_of_dynamodb(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "config").write_text("[profile blue]\nregion = sa-east-1\n")
    (tmp_path / "credentials").write_text("[blue]\naws_access_key_id = A\naws_secret_access_key = B\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))

    async def look() -> None:
        db = AsyncDynamoDocstore(profile_name="blue", config=Config(connect_timeout=1, signature_version="v4"))
        client = await db._engine.driver._connection.client()  # type: ignore[attr-defined]
        credentials = await client._request_signer._credentials.get_frozen_credentials()
        assert (client.meta.region_name, credentials.access_key, credentials.secret_key) == ("sa-east-1", "A", "B")
        assert client.meta.config.connect_timeout == 1
        await db.close()

    asyncio.run(look())


@pytest.mark.parametrize("kind", STORES["firestore"])
def test_credentials_and_database_reach_the_client_of_firestore(
    kind: type[Any], account: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FIRESTORE_EMULATOR_HOST", raising=False)

    async def look() -> None:
        db = kind(credentials=account, database="d")
        client = db._engine.driver.clients.current()
        # The SDK narrows them to its scopes, which makes a copy.
        assert client._credentials.service_account_email == account.service_account_email
        assert client._credentials.signer is account.signer
        assert (client.project, client._database) == ("p", "d")
        await close(db)
        named = kind(credentials=account, project_id="other")
        assert named._engine.driver.clients.current().project == "other"
        await close(named)

    asyncio.run(look())
