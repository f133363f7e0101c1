"""The process of the model's code: loads it and does what the judge asks, until the pipe closes."""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from rlkv.grading.sandbox.values import decode, encode

MODULE_NAME = "solution"
"""What the code finds in ``__name__``; not ``__main__``, so that its own demonstration does not run."""


class Candidate:
    """The loaded code and the objects that the judge has numbers of."""

    def __init__(self, source: str) -> None:
        self._namespace: dict[str, Any] = {"__name__": MODULE_NAME}
        self._objects: list[Any] = []
        exec(compile(source, "<solution>", "exec"), self._namespace)

    def answer(self, request: dict[str, Any]) -> Any:
        """Do one operation of ``rlkv.grading.sandbox.judge`` and return its encoded value."""
        return encode(self._perform(request), self._keep)

    def _perform(self, request: dict[str, Any]) -> Any:
        operation = request["do"]
        if operation == "name":
            return self._global(request["name"])
        target = self._find(request["object"])
        if operation == "call":
            arguments = [decode(value, self._find) for value in request["arguments"]]
            named = {name: decode(value, self._find) for name, value in request["named"].items()}
            return target(*arguments, **named)
        if operation == "get":
            return getattr(target, request["name"])
        if operation == "set":
            return setattr(target, request["name"], decode(request["value"], self._find))
        return list(target)

    def _global(self, name: str) -> _Opaque:
        if name not in self._namespace:
            raise NameError(f"name {name!r} is not defined")
        return _Opaque(self._namespace[name])

    def _keep(self, value: Any) -> int:
        self._objects.append(value.value if isinstance(value, _Opaque) else value)
        return len(self._objects) - 1

    def _find(self, number: int) -> Any:
        return self._objects[number]


class _Opaque:
    """Makes a value travel by number whatever it is: a global is asked for to be called."""

    def __init__(self, value: Any) -> None:
        self.value = value


def serve(source: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Load the code, say so, and answer request by request; whatever the code raises is a reply."""
    try:
        candidate = Candidate(source)
        _send(replies, {"value": None})
    except BaseException as error:  # also SystemExit, and what the code invents
        _send(replies, {"error": describe(error)})
        return
    for line in requests:
        try:
            reply = {"value": candidate.answer(json.loads(line))}
        except BaseException as error:
            reply = {"error": describe(error)}
        _send(replies, reply)


def describe(error: BaseException) -> str:
    """An error in one short line, even where printing it raises another one."""
    try:
        text = " ".join(str(error).split())
    except BaseException:
        text = ""
    return f"{type(error).__name__}: {text}"[:200]


def _send(replies: BinaryIO, reply: dict[str, Any]) -> None:
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()
