"""The process of the tests: runs them over proxies of the model's functions and gives the verdict.

Arguments and results cross the pipe as plain data (``rlkv.grading.sandbox.values``), by value. An object of
the code that is no plain data can be passed back, called, iterated and asked for attributes, and nothing
else: it equals nothing and is neither true nor false, so no ``__eq__`` of the model's can pass a test.
"""

from __future__ import annotations

import ast
import builtins
import json
from collections.abc import Iterator
from typing import Any, BinaryIO, NoReturn

from rlkv.grading.sandbox.values import MAX_MESSAGE_BYTES, decode, encode


class CodeError(Exception):
    """The model's code raised, ended or broke the pipe."""


class Channel:
    """The judge's end of the two pipes."""

    def __init__(self, requests: BinaryIO, replies: BinaryIO) -> None:
        self._requests = requests
        self._replies = replies

    def ready(self) -> None:
        """Wait until the code is loaded.

        Raises:
            CodeError: it cannot be.
        """
        self._reply()

    def ask(self, operation: str, **details: Any) -> Any:
        """The value of one operation in the code's process.

        Raises:
            CodeError: it raised or is gone.
        """
        message = json.dumps({"do": operation, **details}).encode() + b"\n"
        try:
            self._requests.write(message)
            self._requests.flush()
        except BrokenPipeError:
            raise CodeError("the code ended its process") from None
        return self._reply()

    def _reply(self) -> Any:
        line = self._replies.readline(MAX_MESSAGE_BYTES)
        if not line:
            raise CodeError("the code ended its process")
        try:
            reply = json.loads(line)
            error = reply.get("error")
            if error is None:
                return decode(reply["value"], self._object)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
            raise CodeError("the code's reply is no plain data") from None
        raise CodeError(str(error)[:200])

    def _object(self, number: int) -> Remote:
        return Remote(self, int(number))


class Remote:
    """Stands in the tests for a function, class or object of the model's code."""

    def __init__(self, channel: Channel, number: int) -> None:
        object.__setattr__(self, "_channel", channel)
        object.__setattr__(self, "_number", number)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._channel.ask(
            "call",
            object=self._number,
            arguments=[encode(value, _number_of) for value in arguments],
            named={name: encode(value, _number_of) for name, value in named.items()},
        )

    def __getattr__(self, name: str) -> Any:
        return self._channel.ask("get", object=self._number, name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._channel.ask("set", object=self._number, name=name, value=encode(value, _number_of))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._channel.ask("list", object=self._number))

    def _refuse(self, *_: object) -> NoReturn:
        raise CodeError("the code's value is no plain data")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __hash__ = _refuse


def _number_of(value: Any) -> int:
    if isinstance(value, Remote):
        return value._number
    raise CodeError(f"the tests pass a {type(value).__name__}, which is no plain data")


def names_of_the_code(tests: ast.Module) -> set[str]:
    """The names that the tests expect the code to define.

    Those that are neither bound in the tests nor Python's. Where there are none, the code was asked for a
    function named like one of Python's (``sum``), and that is the first one the asserts call.
    """
    nodes = list(ast.walk(tests))
    names = [node for node in nodes if isinstance(node, ast.Name)]
    bound = {name.id for name in names if not isinstance(name.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {
        (alias.asname or alias.name).partition(".")[0]
        for node in nodes
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    bound |= {n.name for n in nodes if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    free = {name.id for name in names} - bound
    if wanted := free - set(dir(builtins)):
        return wanted
    asserts = [node for node in tests.body if isinstance(node, ast.Assert)]
    calls = [node for test in asserts for node in ast.walk(test.test) if isinstance(node, ast.Call)]
    return {call.func.id for call in calls[:1] if isinstance(call.func, ast.Name)} & free


def judge(tests: str, channel: Channel) -> tuple[bool, str]:
    """Whether the code passes all tests, and why.

    Args:
        tests: Python statements, asserts among them.
        channel: to the code.
    """
    tree = ast.parse(tests)
    if not any(isinstance(node, ast.Assert) for node in tree.body):
        return False, "no assert in the tests"
    namespace: dict[str, Any] = {"__name__": "tests"}
    source = ""
    try:
        channel.ready()
        for name in sorted(names_of_the_code(tree)):
            namespace[name] = channel.ask("name", name=name)
        for statement in tree.body:
            source = " ".join((ast.get_source_segment(tests, statement) or "").split())[:200]
            block = ast.Module([statement], type_ignores=[])
            exec(compile(block, "<tests>", "exec", optimize=0), namespace)  # never without its asserts
    except AssertionError:
        return False, f"fails {source}"
    except CodeError as error:
        return False, f"{error} in {source}" if source else str(error)
    except Exception as error:
        return False, f"{type(error).__name__} in {source}"
    return True, "passes all tests"
