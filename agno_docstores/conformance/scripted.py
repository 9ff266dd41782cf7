"""A model that answers from a script, without a network: what real Agno agents run on in tests and demonstrations."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

#: Given the messages of the prompt, the text to answer, or the tool call to make: (name, JSON arguments).
Script = Callable[[list[Message]], str | tuple[str, str]]


def echo(messages: list[Message]) -> str:
    """Answer with how many user messages the prompt held, and the last of them."""
    asked = [str(message.content) for message in messages if message.role == "user"]
    return f"{len(asked)} asked, last: {asked[-1] if asked else ''}"


@dataclass
class ScriptedModel(Model):
    """`prompts` keeps what each call was given, so that a test can look at the history in it."""

    id: str = "scripted"
    name: str = "ScriptedModel"
    provider: str = "scripted"
    script: Script = echo
    prompts: list[list[Message]] = field(default_factory=list)

    def _answer(self, messages: list[Message]) -> ModelResponse:
        self.prompts.append(list(messages))
        answer = self.script(messages)
        if isinstance(answer, str):
            return ModelResponse(role="assistant", content=answer)
        name, arguments = answer
        function = {"name": name, "arguments": arguments}
        call = {"id": f"call-{len(self.prompts)}", "type": "function", "function": function}
        return ModelResponse(role="assistant", content="", tool_calls=[call])

    def invoke(self, *args: Any, messages: list[Message] | None = None, **kwargs: Any) -> ModelResponse:
        return self._answer(messages or [])

    async def ainvoke(self, *args: Any, messages: list[Message] | None = None, **kwargs: Any) -> ModelResponse:
        return self._answer(messages or [])

    def invoke_stream(
        self, *args: Any, messages: list[Message] | None = None, **kwargs: Any
    ) -> Iterator[ModelResponse]:
        yield self._answer(messages or [])

    async def ainvoke_stream(
        self, *args: Any, messages: list[Message] | None = None, **kwargs: Any
    ) -> AsyncIterator[ModelResponse]:
        yield self._answer(messages or [])

    def _parse_provider_response(self, response: Any, **kwargs: Any) -> ModelResponse:
        return ModelResponse()

    def _parse_provider_response_delta(self, response: Any) -> ModelResponse:
        return ModelResponse()
