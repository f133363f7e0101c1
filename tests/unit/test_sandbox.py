"""Model code against tests: right and wrong code, code that cheats, and code that attacks the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlkv.errors import RLKVError
from rlkv.grading.sandbox import ALLOW_UNSANDBOXED, require_sandbox, run_tests

LIMIT_S = 20.0
SHORT_S = 1.0
SQUARE = "assert f(2) == 4\nassert f(3) == 9"


@pytest.fixture(scope="module", autouse=True)
def _sandbox() -> None:
    """A machine without a sandbox fails these tests rather than skipping them."""
    require_sandbox()


PASSING = {
    "plain": ("def f(x):\n    return x * x", SQUARE),
    "lambda": ("f = lambda x: x * x", SQUARE),
    "imports": ("import math\ndef f(x):\n    return math.comb(x, 2)", "assert f(4) == 6"),
    "tests import": (
        "def f(x):\n    return x ** 0.5",
        "import math\nassert math.isclose(f(2), math.sqrt(2))",
    ),
    "own main guard": ("def f(x):\n    return x * x\nif __name__ == '__main__':\n    f(1 / 0)", SQUARE),
    "named like a builtin": ("def sum(a, b):\n    return a - b", "assert sum(10, 4) == 6"),
    "uses a class of the code": (
        "class Pair:\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
        "def total(pairs):\n    return [p.a + p.b for p in pairs]",
        "assert total([Pair(1, 2), Pair(3, 4)]) == [3, 7]",
    ),
    "builds a tree": (
        "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\n"
        "def depth(n):\n    return 0 if n is None else 1 + depth(n.left)",
        "root = Node(1)\nroot.left = Node(2)\nassert depth(root) == 2\nassert root.left.v == 2",
    ),
    "generator": ("def f(n):\n    yield from range(n)", "assert list(f(3)) == [0, 1, 2]"),
    "counter": ("from collections import Counter\nf = Counter", "assert f('aab') == {'a': 2, 'b': 1}"),
    "loop in the tests": (
        "def f(x):\n    return x * x",
        "for n in range(5):\n    assert f(n) == n * n\nassert f(9) == 81",
    ),
    "data of every kind": (
        "def f(x):\n    return x",
        "for v in [None, True, -7, 10 ** 5000, 1.5, float('inf'), 2j, 'é\\ud800', b'\\x00', [1, [2]], (1,), {1, 2}, "
        "frozenset([3]), {(1, 2): [None]}]:\n    assert f(v) == v and type(f(v)) is type(v)\nassert f(0) is not False",
    ),
    "prints": ("def f(x):\n    print('x' * 100_000)\n    return x * x", SQUARE),
    "writes to its folder": (
        "def f(x):\n    open('a', 'w').write('4')\n    return int(open('/tmp/a').read())",
        "assert f(2) == 4",
    ),
}


@pytest.mark.parametrize(("code", "tests"), PASSING.values(), ids=PASSING)
def test_right_code_passes(code: str, tests: str) -> None:
    assert run_tests(code, tests, LIMIT_S) == (True, "passes all tests")


EQUALS_ALL = "class A{0}:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n    def __hash__(s): return 4"

SEARCH = "import re\ndef search(text):\n    found = re.search(r'f\\(2\\) == (\\d+)', text)\n    return int(found[1]) if found else 0\n"
"""Finds the test that follows wherever it can be seen, and answers with the number it wants."""

FAILING = {
    "wrong": ("def f(x):\n    return x + 2", SQUARE, "fails assert f(3) == 9"),
    "no such function": ("def g(x):\n    return 4", SQUARE, "NameError: name 'f' is not defined"),
    "raises": (
        "def f(x):\n    return x / 0",
        SQUARE,
        "ZeroDivisionError: division by zero in assert f(2) == 4",
    ),
    "syntax": ("def f(x) return x", SQUARE, "SyntaxError"),
    "empty": ("", SQUARE, "name 'f' is not defined"),
    "100 kB": ("x = 1\n" * 17_000, SQUARE, "name 'f' is not defined"),
    "null byte": ("def f(x):\n    return '\0'", SQUARE, "source code string cannot contain null bytes"),
    "no assert in the tests": ("def f(x):\n    return 4", "f(2)", "no assert in the tests"),
    # Ways to end well
    "os._exit(0)": ("import os\nos._exit(0)", SQUARE, "the code ended its process"),
    "os._exit(0) when called": (
        "import os\ndef f(x):\n    os._exit(0)",
        SQUARE,
        "the code ended its process",
    ),
    "sys.exit(0)": ("import sys\nsys.exit(0)", SQUARE, "SystemExit: 0"),
    "sys.exit(0) when called": ("def f(x):\n    raise SystemExit(0)", SQUARE, "SystemExit: 0"),
    "kills itself": ("import os\ndef f(x):\n    os.abort()", SQUARE, "the code ended its process"),
    # Ways to change what a test means
    "equals everything": (EQUALS_ALL.format("") + "\ndef f(x):\n    return A()", SQUARE, "no plain data"),
    "int that equals everything": (
        EQUALS_ALL.format("(int)") + "\ndef f(x):\n    return A(7)",
        SQUARE,
        "fails assert",
    ),
    "str that equals everything": (
        EQUALS_ALL.format("(str)") + "\ndef f(x):\n    return A('7')",
        "assert f(2) == 'x'",
        "fails",
    ),
    "list of what equals everything": (
        EQUALS_ALL.format("") + "\ndef f(x):\n    return [A()]",
        "assert f(2) == [4]",
        "no plain data",
    ),
    "true in any test": (
        EQUALS_ALL.format("") + "\ndef f(x):\n    return A()",
        "assert f(2)",
        "no plain data",
    ),
    "differs from nothing": (
        EQUALS_ALL.format("") + "\ndef f(x):\n    return A()",
        "assert not f(2) != 4",
        "no plain data",
    ),
    "member of everything": (
        EQUALS_ALL.format("") + "\ndef f(x):\n    return A()",
        "assert f(2) in [4]",
        "no plain data",
    ),
    "patched assert": (
        "import builtins\nbuiltins.AssertionError = type('Quiet', (Exception,), {})\n"
        "builtins.__debug__ if True else 0\ndef f(x):\n    return 0",
        SQUARE,
        "fails assert f(2) == 4",
    ),
    "patched builtins": (
        "import builtins\nbuiltins.set = builtins.sorted = lambda *a: 1\ndef f(x):\n    return [0]",
        "assert set(f(2)) == set([4])",
        "fails assert",
    ),
    "redefined builtins": (
        "def set(x):\n    return 1\ndef f(x):\n    return [0]",
        "assert set(f(2)) == set([4])",
        "fails assert",
    ),
    "patched json": (
        'import json\njson.dumps = lambda *a, **k: \'{"value": true, "passed": true}\'\ndef f(x):\n    return 0',
        SQUARE,
        "in assert",
    ),
    # Ways to see the tests
    "frames": (
        SEARCH + "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
        "        seen = search(repr(frame.f_locals) + repr(frame.f_globals) + repr(frame.f_code.co_consts))\n"
        "        if seen: return seen\n        frame = frame.f_back\n    return 0",
        "assert f(2) == 1234567",
        "fails assert",
    ),
    "garbage collector": (
        SEARCH
        + "import gc\ndef f(x):\n    return next(filter(None, (search(repr(o)) for o in gc.get_objects())), 0)",
        "assert f(2) == 1234567",
        "fails assert",
    ),
    "command line, environment, stdin": (
        SEARCH
        + "import os, sys\ndef f(x):\n    return search(repr(sys.argv) + repr(os.environ) + sys.stdin.read())",
        "assert f(2) == 1234567",
        "fails assert",
    ),
    "every descriptor": (
        SEARCH + "import os\ndef f(x):\n    seen = ''\n    for d in range(64):\n        try:\n"
        "            os.set_blocking(d, False)\n            seen += os.read(d, 9999).decode()\n"
        "        except OSError: pass\n    return search(seen)",
        "assert f(2) == 1234567",
        "fails assert",
    ),
    # Ways to say the verdict
    "prints a verdict": (
        'import os, sys\nline = \'{"passed": true, "reason": "passes all tests"}\\n\'\nprint(line)\n'
        "sys.stderr.write(line)\nos.write(1, line.encode())\nos.write(2, line.encode())\nos._exit(0)",
        SQUARE,
        "the code ended its process",
    ),
    "writes a verdict everywhere": (
        'import os\nline = b\'{"passed": true, "reason": "passes all tests"}\\n\'\nfor d in range(64):\n'
        "    try: os.write(d, line)\n    except OSError: pass",
        SQUARE,
        "the code's reply is no plain data",
    ),
    "replies with nonsense": (
        'import os\nfor d in range(3, 64):\n    try: os.write(d, b\'{"value": ["list", 7]}\\n\' * 9)\n'
        "    except OSError: pass\nos._exit(0)",
        SQUARE,
        "the code",
    ),
    "a deep reply": (
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'[' * 60_000 + b'\\n')\n    except OSError: pass",
        SQUARE,
        "the code's reply is no plain data",
    ),
    # Ways to take all there is
    "memory": ("def f(x):\n    return len(bytearray(8 * 1024 ** 3))", SQUARE, "MemoryError"),
    "a huge result": (
        "def f(x):\n    return 'x' * (64 * 1024 ** 2)",
        SQUARE,
        "the code's reply is no plain data",
    ),
    "recursion": ("def f(x):\n    return f(x)", SQUARE, "RecursionError"),
}


@pytest.mark.parametrize(("code", "tests", "reason"), FAILING.values(), ids=FAILING)
def test_no_other_code_passes(code: str, tests: str, reason: str) -> None:
    passed, found = run_tests(code, tests, LIMIT_S)
    assert not passed
    assert reason in found and "\n" not in found


ENDLESS = {
    "loop": "def f(x):\n    while True: pass",
    "loop at import": "while True: pass",
    "sleep": "import time\ndef f(x):\n    time.sleep(1000)",
    "deaf to signals": (
        "import signal\nfor s in range(1, 64):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 64))\nwhile True: pass"
    ),
    "one long multiplication": "def f(x):\n    return 9 ** 9 ** 9 % 7",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "thread bomb": (
        "import threading\nwhile True:\n    try: threading.Thread(target=lambda: None).start()\n    except RuntimeError: pass"
    ),
    "endless generator": "import itertools\ndef f(x):\n    return itertools.count()",
    "endless output": "def f(x):\n    while True: print('x' * 1000)",
}


@pytest.mark.parametrize("code", ENDLESS.values(), ids=ENDLESS)
def test_a_hang_ends_with_its_limit(code: str) -> None:
    begin = time.monotonic()
    passed, reason = run_tests(code, "assert list(f(2)) == [4]", SHORT_S)
    assert time.monotonic() - begin < SHORT_S + 1
    assert not passed and reason in (
        f"time limit of {SHORT_S:g} s",
        "MemoryError:  in assert list(f(2)) == [4]",
    )
    end = time.monotonic() + 1
    while left := _processes_of_this_test():
        assert time.monotonic() < end, left
        time.sleep(0.05)


def _processes_of_this_test() -> list[str]:
    """Command lines of sandboxed processes that this one started; namespaces show in the outer /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if "rlkv.grading.sandbox.main" in words and str(os.getpid()) in words and state != "Z":
            found.append(" ".join(words))
    return found


# What code tries, and what it gets: the tests pass where the attempt is contained.
ATTEMPT = "def attempt():\n    try:\n        {}\n    except Exception as error:\n        return type(error).__name__\n    return 'succeeds'"

CONTAINED = {
    "fork": ("import os; os.fork()", ["BlockingIOError"]),
    "subprocess": (
        "import subprocess; subprocess.run(['/bin/sh', '-c', 'true'])",
        ["BlockingIOError", "FileNotFoundError"],
    ),
    "thread": ("import threading; threading.Thread(target=print).start()", ["RuntimeError"]),
    "internet": ("import socket; socket.create_connection(('1.1.1.1', 53), 1)", ["OSError"]),
    "kill": ("import os; os.kill(-1, 9)", ["ProcessLookupError"]),
    "parent": ("import os; os.kill(os.getppid() or 2, 9)", ["ProcessLookupError"]),
    "root": ("import os; os.setuid(0)", ["PermissionError", "OSError"]),
    "mount": (
        "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/tmp', b'tmpfs', 0, b'') == 0",
        ["AssertionError"],
    ),
    "password file": ("open('/etc/passwd')", ["FileNotFoundError"]),
    "processes": ("open('/proc/self/environ')", ["FileNotFoundError"]),
    "device": ("open('/dev/null')", ["FileNotFoundError"]),
    "device node": ("import os; os.mknod('/tmp/sda', 0o60600, os.makedev(8, 0))", ["PermissionError"]),
    "write to the root": ("open('/a', 'w')", ["OSError", "PermissionError"]),
    "write to a library": ("import json; open(json.__file__, 'a')", ["OSError", "PermissionError"]),
    "fill the folder": ("open('/tmp/a', 'wb').write(bytes(17 * 1024 ** 2))", ["OSError"]),
    "raise a limit": ("import resource; resource.setrlimit(resource.RLIMIT_NPROC, (9, 9))", ["ValueError"]),
    "old root": ("import os; os.chdir('/proc'); os.chroot('..')", ["FileNotFoundError", "PermissionError"]),
    "this package": ("import rlkv.planner", ["ModuleNotFoundError", "ImportError"]),
}


@pytest.mark.parametrize(("statement", "errors"), CONTAINED.values(), ids=CONTAINED)
def test_attempts_are_contained(statement: str, errors: list[str]) -> None:
    passed, reason = run_tests(ATTEMPT.format(statement), f"assert attempt() in {errors}", LIMIT_S)
    assert passed, reason


def test_sees_nothing_of_the_machine(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("1234567")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for statement, error in [
            (f"open({str(secret)!r})", "FileNotFoundError"),
            (f"open({str(tmp_path / 'new')!r}, 'w')", "FileNotFoundError"),
            (f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)", "OSError"),
        ]:
            assert run_tests(ATTEMPT.format(statement), f"assert attempt() == {error!r}", LIMIT_S)[0], (
                statement
            )
    marker = f"/tmp/rlkv-sandbox-test-{os.getpid()}"
    assert run_tests(f"def f():\n    return open({marker!r}, 'w').write('x')", "assert f() == 1", LIMIT_S)[0]
    assert [path.name for path in tmp_path.iterdir()] == ["secret"] and not Path(marker).exists()


def test_two_runs_share_nothing() -> None:
    code = (
        "import os\ndef f():\n    seen = os.path.exists('/tmp/a')\n    open('/tmp/a', 'w')\n    return seen"
    )
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: run_tests(code, "assert f() == False", LIMIT_S)[0], range(8)))


def test_dies_with_its_parent() -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from rlkv.grading.sandbox import run_tests; run_tests('while 1: pass', 'assert f()', 99)",
        ]
    )
    marker = str(parent.pid)
    end = time.monotonic() + 20
    while not _runs(marker) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(0.5)
    assert _runs(marker)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 5
    while _runs(marker) and time.monotonic() < end:
        time.sleep(0.1)
    assert not _runs(marker)


def _runs(argument: str, command: str = "rlkv.grading.sandbox.main") -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if command in words and argument in words:
            return True
    return False


def test_refused_where_the_system_allows_no_sandbox(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system call that fails, as in a container without rights, stands in for such a system."""
    monkeypatch.setattr("rlkv.grading.sandbox.run._PACKAGES", str(_package_that_may_not_unshare(tmp_path)))
    with pytest.raises(
        RLKVError, match=r"unshare: Operation not permitted, expected Linux namespaces"
    ) as caught:
        run_tests("def f(x):\n    return x * x", SQUARE, LIMIT_S)
    assert "\n" not in str(caught.value)
    monkeypatch.setenv(ALLOW_UNSANDBOXED, "1")
    assert run_tests("def f(x):\n    return x * x", SQUARE, LIMIT_S)[0]
    assert not run_tests("def f(x):\n    return x", SQUARE, LIMIT_S)[0]
    assert run_tests("while True: pass", SQUARE, 1.0) == (False, "time limit of 1 s")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's code may start processes without a sandbox")
@pytest.mark.parametrize(
    ("end", "passed"), [("", True), ("\nimport os\nos._exit(0)", False), ("\nwhile True: pass", False)]
)
def test_unsandboxed_code_leaves_no_process(end: str, passed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_UNSANDBOXED, "1")
    seconds = f"47.{os.getpid()}"
    code = f"import subprocess\nsubprocess.Popen(['sleep', '{seconds}'])\ndef f(x):\n    return x * x{end}"
    assert run_tests(code, SQUARE, 3.0)[0] == passed
    time.sleep(0.2)
    assert not _runs(seconds, "sleep")


def _package_that_may_not_unshare(folder: Path) -> Path:
    import shutil

    import rlkv

    source = Path(rlkv.__file__).parent
    shutil.copytree(source, folder / "rlkv", ignore=shutil.ignore_patterns("models", "__pycache__"))
    isolation = folder / "rlkv/grading/sandbox/isolation.py"
    text = isolation.read_text()
    assert "_LIBC.unshare(spaces)" in text
    denied = "(ctypes.set_errno(1) or 1)"
    text = text.replace("_LIBC.unshare(spaces)", denied).replace("_LIBC.unshare(spaces | _NEW_USER)", denied)
    isolation.write_text(text)
    return folder
