"""AgentOS as an MCP server with Agno's own OAuth server over a store, answering as on SqliteDb.

A client registers, is let in by who runs the server, changes its code for tokens and its tokens for others, uses them
for MCP's tools, and loses them. Agno has only an SQL database keep what that needs (`AgentOSBuiltinAuth._validate_db`);
here that one question is left out, on either side.

Needs what `agentos` does, and `agno[mcp]`.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from agno.agent import Agent
from agno.os import AgentOS
from agno.os.mcp_auth_builtin import AgentOSBuiltinAuth
from starlette.applications import Starlette

from agno_docstores.conformance.agentos import (
    Side,
    differences,
    oracle_for,
    quiet,  # noqa: F401 - a fixture
    started,
)
from agno_docstores.conformance.plugin import Awaitable
from agno_docstores.conformance.scripted import ScriptedModel

#: What the SDK demands of an origin is https, unless it is this one.
ORIGIN = "http://localhost"
CALLBACK = "http://localhost/callback"
SECRET = "what the page of consent asks for"
VERIFIER = "a verifier of these tests, as long as PKCE wants it"
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).decode().rstrip("=")


class AnyStore(AgentOSBuiltinAuth):
    """Agno's OAuth server on whatever has the methods."""

    @staticmethod
    def _validate_db(db: Any) -> None:
        pass


def _oauth(raw: Any) -> AnyStore:
    # No client describes itself by a document in the web, which would have to be fetched.
    return AnyStore(url=ORIGIN, secret=SECRET, db=raw, max_clients=3, enable_cimd=False)


def _server(raw: Any) -> AgentOS:
    agent = Agent(id="a1", name="a1", model=ScriptedModel(), db=raw, telemetry=False)
    return AgentOS(id="os", db=raw, agents=[agent], mcp=True, mcp_auth=_oauth(raw), telemetry=False)


@dataclass
class Visit:
    """A client's way through one of the two servers, and what it was told: `told` is to be the same on both."""

    side: Side
    told: list[Any] = field(default_factory=list)

    def named(self, value: str, name: str) -> str:
        """Have a name stand for what was drawn by chance."""
        self.side.names[value] = name
        return value

    def plain(self, text: str) -> str:
        for value, name in self.side.names.items():
            text = text.replace(value, name)
        return text

    async def ask(self, method: str, path: str, status: int, **options: Any) -> httpx.Response:
        response = await self.side.client.request(method, f"{ORIGIN}{path}", **options)
        assert response.status_code == status, f"{type(self.side.store.raw).__name__}: {method} {path}: {response.text}"
        return response

    def tell(self, response: httpx.Response) -> None:
        """Note an answer, after what in it was drawn by chance has got its names."""
        kept = ("location", "www-authenticate", "content-type", "content-security-policy")
        headers = {name: self.plain(response.headers[name]) for name in kept if name in response.headers}
        text = self.plain(response.text)
        body = json.loads(text) if headers.get("content-type") == "application/json" and text else text
        self.told.append((response.request.method, response.url.path, headers, self.side.plain(body)))

    async def asked(self, method: str, path: str, status: int, **options: Any) -> httpx.Response:
        response = await self.ask(method, path, status, **options)
        self.tell(response)
        return response

    # --- The steps of a client ---

    async def registered(self, name: str = "Client") -> str:
        response = await self.ask("POST", "/register", 201, json={"redirect_uris": [CALLBACK], "client_name": name})
        client_id = self.named(response.json()["client_id"], f"id of {name}")
        self.tell(response)
        return client_id

    def request(self, client_id: str, **query: str) -> dict[str, str]:
        return {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": CALLBACK,
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            "state": "s",
            **query,
        }

    async def directed(self, client_id: str) -> str:
        """Ask to be let in; the address of the page of consent."""
        response = await self.ask("GET", "/authorize", 302, params=self.request(client_id))
        location = httpx.URL(response.headers["location"])
        self.named(location.params["txn"], "transaction")
        self.tell(response)
        return location.raw_path.decode()

    async def consented(self, page: str, status: int = 302, again: bool = False, **form: str) -> httpx.Response:
        """Open the page of consent and answer what it asks for; `again`: it has been opened before."""
        found = await self.ask("GET", page, 200)
        token = re.search('name="csrf" value="([^"]*)"', found.text)
        assert token is not None
        self.named(token[1], "token against forgery")
        self.tell(found)
        form = {"txn": httpx.URL(page).params["txn"], "csrf": token[1], "action": "approve", "secret": SECRET, **form}
        response = await self.ask("POST", "/mcp-auth/consent", status, data=form)
        for drawn in re.findall('name="csrf" value="([^"]*)"', response.text):
            self.named(drawn, "token against forgery")
        return response

    async def let_in(self, client_id: str) -> str:
        """The code that a client is given."""
        response = await self.consented(await self.directed(client_id))
        code = self.named(httpx.URL(response.headers["location"]).params["code"], "code")
        self.tell(response)
        return code

    def exchange(self, client_id: str, code: str, **form: str) -> Any:
        form = {"client_id": client_id, "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER, **form}
        return {"data": {"grant_type": "authorization_code", **form}}

    def renewal(self, client_id: str, token: str, **form: str) -> Any:
        return {"data": {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": token, **form}}

    async def tokens(self, request: Any) -> tuple[str, str]:
        """A token to use, and one to renew it with."""
        response = await self.ask("POST", "/token", 200, **request)
        found = response.json()
        pair = found["access_token"], found["refresh_token"]
        for token, use in zip(pair, ("access", "refresh"), strict=True):
            self.named(token, f"{use} token")
            claims = jwt.decode(token, options={"verify_signature": False})
            self.named(claims.pop("jti"), "id of a token")
            family = claims.get("upstream_claims", {}).get("family_id")
            if family is not None:
                self.named(family, "family")
            claims["exp"] -= claims["iat"]
            self.told.append(self.side.plain(json.loads(self.plain(json.dumps(claims)))))
        self.tell(response)
        return pair

    async def tools(self, token: str) -> None:
        """Use a token for what it is for."""
        headers = {"authorization": f"Bearer {token}", "accept": "application/json, text/event-stream"}

        async def call(number: int, method: str, **params: Any) -> None:
            body = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            response = await self.ask("POST", "/mcp", 200, headers=headers, json=body)
            headers["mcp-session-id"] = response.headers["mcp-session-id"]
            (data,) = (line for line in response.text.splitlines() if line.startswith("data: "))
            found = json.loads(self.plain(data.removeprefix("data: ")))
            for part in found["result"].get("content", ()):
                with suppress(ValueError):
                    part["text"] = json.loads(part["text"])
            self.told.append(self.side.plain(found))

        hello = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c", "version": "1"}}
        await call(1, "initialize", **hello)
        await call(2, "tools/call", name="run_agent", arguments={"agent_id": "a1", "message": "hi", "session_id": "s1"})
        await call(3, "tools/call", name="get_sessions", arguments={})


async def a_client_comes_and_goes(visit: Visit) -> None:
    for path in ("/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/mcp"):
        await visit.asked("GET", path, 200)
    await visit.asked("POST", "/mcp", 401, json={})
    client_id = await visit.registered()
    confidential = {"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "client_secret_post"}
    await visit.asked("POST", "/register", 400, json=confidential)
    await visit.asked("POST", "/register", 400, json={"client_name": "without an address"})
    for wrong in ({"client_id": "nobody"}, {"redirect_uri": "http://elsewhere/"}):
        await visit.asked("GET", "/authorize", 400, params={**visit.request(client_id), **wrong})
    await visit.asked("GET", "/authorize", 302, params=visit.request(client_id, scope="agent_os:admin"))

    # The page of consent: it is answered once, by who knows the secret.
    await visit.asked("GET", "/mcp-auth/consent?txn=nothing", 404)
    visit.tell(await visit.consented(await visit.directed(client_id), action="deny"))
    page = await visit.directed(client_id)
    visit.tell(await visit.consented(page, status=200, secret="a guess"))
    visit.tell(await visit.consented(page, status=400, csrf="forged"))
    response = await visit.consented(page)
    code = visit.named(httpx.URL(response.headers["location"]).params["code"], "code")
    visit.tell(response)
    await visit.asked("GET", page, 404)

    # A code is changed for tokens once, by whom it was given to.
    await visit.asked("POST", "/token", 401, **visit.exchange(client_id, "nothing"))
    await visit.asked("POST", "/token", 401, **visit.exchange("nobody", code))
    await visit.asked("POST", "/token", 401, **visit.exchange(client_id, code, code_verifier="v" * 50))
    await visit.asked("POST", "/token", 400, **visit.exchange(client_id, code, redirect_uri="http://elsewhere/"))
    other = await visit.registered("Other")
    await visit.asked("POST", "/token", 401, **visit.exchange(other, code))
    access, refresh = await visit.tokens(visit.exchange(client_id, code))
    await visit.asked("POST", "/token", 401, **visit.exchange(client_id, code))
    await visit.asked("POST", "/mcp", 401, json={}, headers={"authorization": f"Bearer {access[:-9]}"})
    await visit.tools(access)

    # A token to renew with is changed once, too; whoever uses it again loses all that came of it.
    await visit.asked("POST", "/token", 401, **visit.renewal(other, refresh))
    await visit.asked("POST", "/token", 400, **visit.renewal(client_id, refresh, scope="agent_os:admin"))
    _, second = await visit.tokens(visit.renewal(client_id, refresh))
    _, third = await visit.tokens(visit.renewal(client_id, second, scope="agents:run"))
    await visit.asked("POST", "/token", 401, **visit.renewal(client_id, second))
    await visit.asked("POST", "/token", 401, **visit.renewal(client_id, third))

    # What is revoked is gone; a token to use has its time.
    access, refresh = await visit.tokens(visit.exchange(client_id, await visit.let_in(client_id)))
    for token in (refresh, access, refresh):
        await visit.asked("POST", "/revoke", 200, data={"client_id": client_id, "client_secret": "", "token": token})
    await visit.asked("POST", "/token", 401, **visit.renewal(client_id, refresh))

    # Who never came back makes room for nobody before his time; who did does not count.
    for number in range(2):
        await visit.registered(f"late {number}")
    await visit.asked("POST", "/register", 400, json={"redirect_uris": [CALLBACK], "client_name": "one too many"})

    # Who starts later on the same storage has the same keys, clients and tokens; of many at once, one is served.
    code = await visit.let_in(client_id)
    later = _oauth(visit.side.store.raw)
    transport = httpx.ASGITransport(app=Starlette(routes=later.get_routes("/mcp")))
    async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
        for request in (visit.exchange(client_id, code), None):
            request = request or visit.renewal(client_id, refresh)
            answers = await asyncio.gather(*(client.post("/token", **request) for _ in range(6)))
            assert sorted(answer.status_code for answer in answers) == [200, *[401] * 5]
            (refresh,) = (answer.json()["refresh_token"] for answer in answers if answer.status_code == 200)
    known = await later.load_access_token(access)
    assert known is not None and known.client_id == client_id


#: What a client is told on the oracle: the same, whatever it is compared with.
_TOLD: list[Any] = []


async def test_an_mcp_client_is_let_in_and_out_as_on_sqlite(db: Awaitable, tmp_path: Path, quiet: None) -> None:  # noqa: F811
    if db.is_async:
        # Agno's OAuth server is for sync databases: of an async one it says so when it is made, whichever it is.
        for raw in (oracle_for(db.raw, tmp_path), db.raw):
            with pytest.raises(ValueError, match="AgentOSBuiltinAuth"):
                AgentOSBuiltinAuth(url=ORIGIN, secret=SECRET, db=raw)
        return
    for raw in (db.raw,) if _TOLD else (oracle_for(db.raw, tmp_path), db.raw):
        async with started(_server(raw).get_app(), raw) as side:
            visit = Visit(side)
            await a_client_comes_and_goes(visit)
        told = json.loads(json.dumps(visit.told))
        _TOLD[:] = _TOLD or told
    lines = list(differences(told, _TOLD))
    assert not lines, "a client is told otherwise than on the oracle:\n" + "\n".join(lines)
    assert len(told) > 50
