"""Starts ``rlkv serve`` in a process group of its own, and ends all of it; it never outlives this process."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from rlkv.errors import ConfigError, DataError

START_SECONDS = 600
"""A first start on a CUDA host compiles kernels for minutes."""


class Server:
    """A running server; it ends with the thread that starts it at the latest (``rlkv.tethered``).

    Args:
        model: for ``rlkv serve --model``.
        flags: of SGLang, beside the model and the port.
        log: file for its output.
        environment: variables beside those of this process.

    Attributes:
        url: where it answers.

    Raises:
        DataError: it ended or did not answer in time; the message has the end of its log.
    """

    def __init__(
        self, model: str, flags: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        command = [sys.executable, "-m", "rlkv.tethered", str(os.getpid())]
        command += [sys.executable, "-m", "rlkv", "serve", "--model", model, "--port", str(port)]
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--skip-server-warmup", *flags],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _wait(self) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise DataError(f"{self.log}: the server ended with {self.process.returncode}: {self.tail()}")
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=60).close()
            except OSError:
                time.sleep(0.5)
            else:
                return
        raise DataError(f"{self.log}: the server did not answer in {START_SECONDS} s: {self.tail()}")

    def stop(self) -> None:
        """End it and all of its processes."""
        for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 30)):
            try:
                os.killpg(self.process.pid, number)
            except ProcessLookupError:
                break
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                continue
        self.process.wait(30)

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(line[:300] for line in self.log.read_text(errors="replace").splitlines()[-30:])


def free_port() -> int:
    """A port of this host that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def split_flags(text: str) -> list[str]:
    """Flags of a server that were given as one text, taken apart as a shell does.

    Raises:
        ConfigError: a quotation in it does not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"server_flags: found {text!r} ({error}), expected flags as in a shell") from None
