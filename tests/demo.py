"""The main job, shown: a conversation of a real Agno agent in each store, resumed by another process.

`make demo` runs it on embedded servers (SecantusDB, moto, our Firestore emulator), sync and async. The model is a
script, so no network is used. Exit code 0 only if every store gave the same history.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agno.agent import Agent
from agno.db.base import AsyncBaseDb
from agno.session import AgentSession

from agno_docstores import SessionConflictError, StateConditionError, SummaryPolicy
from agno_docstores.conformance.plugin import Awaitable, close
from agno_docstores.conformance.scripted import ScriptedModel
from tests.meters import Proxy
from tests.servers import EmbeddedFirestore, MotoServer, Secantus, Server

FIRST_PROCESS = ("My name is Ada.", "I keep bees.", "They like lavender.")
SECOND_PROCESS = ("What do you know about me?",)
SESSION = {"session_id": "demo", "user_id": "ada"}
LIFETIME = {"ttl": 86_400}  # a session expires a day after its last turn
TITLES = {"mongo": "MongoDB (SecantusDB)", "dynamo": "DynamoDB (moto)", "firestore": "Firestore (embedded emulator)"}


def servers() -> dict[str, Server]:
    return {"mongo": Secantus(), "dynamo": MotoServer(), "firestore": EmbeddedFirestore()}


# --- In the child processes -------------------------------------------------------------------------------------------


def open_store(store: str, mode: str, address: str) -> Any:
    """The one line that a user changes, for each store."""
    if store == "mongo":
        from agno_docstores_mongo import AsyncMongoDocstore, MongoDocstore

        mongo = MongoDocstore if mode == "sync" else AsyncMongoDocstore
        return mongo(db_url=f"{address}/?directConnection=true", db_name=f"demo_{mode}", session_config=LIFETIME)
    if store == "dynamo":
        from agno_docstores_dynamo import AsyncDynamoDocstore, DynamoDocstore

        dynamo = DynamoDocstore if mode == "sync" else AsyncDynamoDocstore
        keys = {"aws_access_key_id": "demo", "aws_secret_access_key": "demo"}
        place = {"endpoint_url": address, "region_name": "us-east-1", "table_name": f"demo_{mode}"}
        return dynamo(**place, **keys, session_config=LIFETIME)
    from agno_docstores_firestore import AsyncFirestoreDocstore, FirestoreDocstore

    os.environ["FIRESTORE_EMULATOR_HOST"] = address
    firestore = FirestoreDocstore if mode == "sync" else AsyncFirestoreDocstore
    return firestore(project_id=f"demo-{mode}", session_config=LIFETIME)


async def converse(db: Any, questions: tuple[str, ...], proxy: Proxy) -> dict[str, Any]:
    """Ask an agent each question; what its last prompt held, and what the last turn cost."""
    model = ScriptedModel()
    agent = Agent(
        id="beekeeper", model=model, db=db, add_history_to_context=True, num_history_runs=10, telemetry=False, **SESSION
    )
    cost: dict[str, int] = {}
    for question in questions:
        proxy.traffic.reset()
        before = db.io.calls.total()
        if isinstance(db, AsyncBaseDb):
            await agent.arun(question)
        else:
            agent.run(question)
        await asyncio.sleep(0.05)
        cost = {"requests": db.io.calls.total() - before, "bytes": proxy.traffic.total}
    prompt = [str(message.content) for message in model.prompts[-1] if message.role == "user"]
    return {"prompt": prompt, **cost}


async def state_and_conflicts(db: Any) -> list[list[str]]:
    """What was done to the session's state, and what came of it."""
    shown = []
    data = await db.update_session_data("demo", increment={"session_state.hives": 2}, user_id="ada")
    shown.append(["count two hives", f"hives = {data['session_state']['hives']}"])
    try:
        await db.update_session_data("demo", set={"session_state.hives": 9}, when={"session_state.hives": 3})
    except StateConditionError as error:
        shown.append(["set them to 9 if there are 3", f"refused: {error.unmet}"])
    first, second = await db.get_session("demo"), await db.get_session("demo")
    first.session_data["session_state"]["honey"] = "lavender"
    second.session_data["session_state"]["season"] = "spring"
    await db.upsert_session(first)
    await db.upsert_session(second)
    state = (await db.get_session_data("demo"))["session_state"]
    shown.append(["two turns save what each has changed", json.dumps(state, sort_keys=True)])
    try:
        await db.save_session(second)
    except SessionConflictError as error:
        shown.append(["save what the second has read, if nobody wrote since", f"refused: changed {error.changed}"])
    return shown


async def summary_and_expiry(db: Any) -> list[list[str]]:
    """A summary of the session; and another session, whose time is over."""
    shown = []

    def summarize(session: Any) -> dict[str, Any]:
        return {"summary": f"Ada keeps bees ({len(session.runs)} turns).", "topics": ["bees"]}

    async def asummarize(session: Any) -> dict[str, Any]:
        return summarize(session)

    policy = SummaryPolicy(max_messages=6)
    for what in ("summarize if six messages came since the last summary", "the same again"):
        made = await db.summarize_session("demo", asummarize if db.is_async else summarize, policy=policy)
        shown.append([what, made.summary if made is not None else "none is due"])
    await db.upsert_session(AgentSession(session_id="visit", agent_id="beekeeper", user_id="ada"))
    await db.touch_session("visit", ttl=60)
    shown.append(["begin a session that may be idle for a minute", f"{await db.count_sessions('ada')} sessions"])
    real = db.io.now
    db.io.now = lambda: real() + 61
    found = await db.get_session("visit")
    shown.append(["look for it a minute later", f"{found}, {await db.count_sessions('ada')} session"])
    swept = await db.sweep()
    shown.append(["sweep", f"{swept.sessions} session removed, {len(swept.failures)} failures"])
    return shown


async def child(store: str, mode: str, address: str, part: str) -> dict[str, Any]:
    """One process of the demonstration."""
    host, _, port = address.rpartition("://")[2].partition(":")
    proxy = Proxy(host, int(port))
    proxied = address.replace(f"{host}:{port}", f"127.0.0.1:{proxy.port}")
    raw = open_store(store, mode, proxied)
    db = Awaitable(raw)
    result = await converse(raw, FIRST_PROCESS if part == "first" else SECOND_PROCESS, proxy)
    if part == "second":
        renamed = await db.rename_session(session_id="demo", session_type=None, session_name="Bees", user_id="ada")
        session = await db.get_session("demo", user_id="ada")
        result["name"] = renamed.session_data["session_name"]
        result["runs"] = len(session.runs)
        result["history"] = [[run.input.input_content, run.content] for run in session.runs]
        result["shown"] = await state_and_conflicts(db) + await summary_and_expiry(db)
    await close(raw)
    proxy.close()
    return result


# --- In the parent ----------------------------------------------------------------------------------------------------


def run_child(store: str, mode: str, address: str, part: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.demo", "child", store, mode, address, part]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        raise RuntimeError(f"{store} {mode} {part}: {done.stderr.strip()[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def conversations(store: str, address: str) -> dict[str, dict[str, Any]]:
    """Both modes of one store: what the second process of each found."""
    found = {}
    for mode in ("sync", "async"):
        run_child(store, mode, address, "first")
        found[mode] = run_child(store, mode, address, "second")
    return found


def stored(store: str, address: str) -> dict[str, Any]:
    """The stored documents as they lie there, read with the store's own SDK."""
    if store == "mongo":
        import pymongo

        with pymongo.MongoClient(address, directConnection=True) as client:
            database = client["demo_sync"]
            return {
                name: database[name].find_one({"_rev": {"$exists": True}}) for name in ("agno_sessions", "agno_runs")
            }
    if store == "dynamo":
        import boto3

        client = boto3.client(
            "dynamodb", endpoint_url=address, region_name="us-east-1", aws_access_key_id="demo",
            aws_secret_access_key="demo",
        )  # fmt: skip
        items = client.scan(TableName="demo_sync")["Items"]
        return {f"{item['pk']['S']}  {item['sk']['S']}": item for item in sorted(items, key=lambda i: i["sk"]["S"])[:4]}
    os.environ["FIRESTORE_EMULATOR_HOST"] = address
    from google.cloud import firestore

    found: dict[str, Any] = {}
    for collection in firestore.Client(project="demo-sync").collections():
        snapshot = next(iter(collection.limit(1).stream()))
        found[f"{collection.id}/{snapshot.id}"] = snapshot.to_dict()
    return found


def readable(value: Any) -> Any:
    """What a person can read of a stored value: long text cut, bytes named by their size."""
    if isinstance(value, dict):
        return {str(key): readable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [readable(item) for item in value[:3]] + (["..."] if len(value) > 3 else [])
    if isinstance(value, bytes):
        return f"<{len(value)} bytes: {base64.b64encode(value[:12]).decode()}...>"
    if isinstance(value, str) and len(value) > 90:
        return f"{value[:90]}... ({len(value)} characters)"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def main() -> int:
    from rich.console import Console
    from rich.panel import Panel
    from rich.pretty import Pretty
    from rich.table import Table

    console = Console(width=120 if not sys.stdout.isatty() else None)
    console.rule("agno-docstores: one conversation, three stores, two processes")
    table = Table(title="The last turn, by a process that had the history in the store only")
    for column in ("store", "mode", "runs stored", "requests", "bytes", "history in the prompt"):
        table.add_column(column, justify="left" if column in {"store", "mode"} else "right")
    expected = list(FIRST_PROCESS + SECOND_PROCESS)
    histories: dict[tuple[str, str], Any] = {}
    shown: dict[tuple[str, str], Any] = {}
    healthy = True
    running = servers()
    try:
        addresses = {store: server.start() for store, server in running.items()}
        with ThreadPoolExecutor(len(addresses)) as pool:  # the stores side by side; a store's processes in turn
            results = dict(zip(addresses, pool.map(conversations, addresses, addresses.values()), strict=True))
        for store, address in addresses.items():
            for mode, result in results[store].items():
                histories[store, mode] = result["history"]
                shown[store, mode] = result["shown"]
                good = result["prompt"] == expected and result["name"] == "Bees" and result["runs"] == len(expected)
                healthy = healthy and good
                table.add_row(
                    TITLES[store], mode, str(result["runs"]), str(result["requests"]), f"{result['bytes']:,}",
                    "[green]all of it[/]" if good else f"[red]{result['prompt']}[/]",
                )  # fmt: skip
                console.print(f"{TITLES[store]}, {mode}: process 1 asked {len(FIRST_PROCESS)} questions and ended, "
                              f"process 2 resumed with {len(result['prompt']) - 1} of them in its prompt, "
                              f"and renamed the session to {result['name']!r}")  # fmt: skip
            documents = {name: readable(document) for name, document in stored(store, address).items()}
            console.print(Panel(Pretty(documents, max_length=24), title=f"As stored in {TITLES[store]}"))
    finally:
        for server in running.values():
            server.stop()
    console.print(table)
    same = all(len({json.dumps(answer) for answer in answers.values()}) == 1 for answers in (histories, shown))
    if healthy and same:
        console.print("[green]Every store gave the same history.[/]")
        for asked, answered in next(iter(histories.values())):
            console.print(f"  {asked}  ->  {answered}")
        states = Table("done", "came of it", title="State, conflicts, summary and expiry, the same in every store")
        for done, outcome in next(iter(shown.values())):
            states.add_row(done, outcome)
        console.print(states)
        return 0
    console.print("[red]The stores differ.[/]")
    console.print(histories, shown)
    return 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["child"]:
        print(json.dumps(asyncio.run(child(*sys.argv[2:6]))))
        sys.exit(0)
    sys.exit(main())
