#!/usr/bin/env python3
"""Measure what ``rlkv eval run`` adds to the time of the server that it asks.

    scripts/bench_harness.py --out runs/harness

One server, the same problems in both arms, its prefix cache emptied before each:

    bare      already-made requests over plain sockets, the replies thrown away: the server's own time
    harness   the whole command in a process of its own: prompts, checks, requests, grading, records, report

Rounds run bare, harness, harness, bare, so that what drifts steadily falls on both alike. On one machine the
harness takes cores from the server; that is part of what it adds.

The floor is 0. Predicted before the first run, for 1,000 problems of tiny:easy on two cores: 10% during the
requests (5 ms of the client's CPU time a request), 30% for the whole command (5 s of imports, 3 s of report).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request as Post
from urllib.request import urlopen

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rlkv_eval.checkpoint import Checkpoint, locate
from rlkv_eval.config import FULL, EvalConfig
from rlkv_eval.folder import RUN_FILE, read_problems, read_run
from rlkv_eval.records import open_journal, read_journal
from rlkv_eval.served.client import Endpoint, Request, completion_body
from rlkv_eval.throughput.client import server_info
from rlkv_eval.throughput.launch import Server

from rlkv.heads import package_versions

MODEL, TASK = "tiny-reasoner", "tiny:easy"
BARE, HARNESS = "bare", "harness"
ROUND = (BARE, HARNESS, HARNESS, BARE)
TARGET = 0.05
"""What the harness may add to the server's own time."""
WARM_UP = 64
"""Requests that nobody times: the first ones compile and fill caches."""
PACKAGES = ("rlkv", "torch", "transformers", "sglang")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Arm:
    """One run of an arm.

    Attributes:
        name: ``bare`` or ``harness``.
        requests_s: from the first prompt to the last record.
        start_s: imports, settings and the look at the server.
        report_s: from the last record to the end of the command.
        client_cpu_s: user and system seconds of the client, start and report included.
        server_cpu_s: the same of all processes of the server, as long as the arm ran.
        load: of the machine over the last minute, at the end.
    """

    name: str
    requests_s: float
    start_s: float
    report_s: float
    client_cpu_s: float
    server_cpu_s: float
    load: float

    @property
    def whole_s(self) -> float:
        """Seconds of the whole command."""
        return self.start_s + self.requests_s + self.report_s


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, logs and harness.json")
    parser.add_argument("--n", type=int, default=1000, help="problems (default 1000)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests in flight (default 64)")
    parser.add_argument("--rounds", type=int, default=1, help=f"of {', '.join(ROUND)} (default 1)")
    options, flags = parser.parse_known_args()
    options.out.mkdir(parents=True, exist_ok=True)
    config = EvalConfig(
        out=options.out, tasks=(TASK,), n=options.n, methods=(FULL,), concurrency=options.concurrency
    )
    console = Console()
    arms, again_cpu = measure(config, options.rounds, flags, console)
    run = options.out / f"{HARNESS}-0"
    alone, figures = parts_alone(config, run), added(arms, again_cpu)
    result = {
        "model": MODEL,
        "task": TASK,
        "n": options.n,
        "concurrency": options.concurrency,
        "packages": package_versions(*PACKAGES),
        "adds": figures,
        "alone_s": alone,
        "again_cpu_s": again_cpu,
        "arms": [asdict(arm) for arm in arms],
    }
    (options.out / "harness.json").write_text(json.dumps(result, indent=2) + "\n")
    for table in (arms_table(arms), parts_table(alone)):
        console.print(table)
    for name, share in figures.items():
        console.print(f"adds {share:+.1%} to the server's own time: {name}", highlight=False)
    if figures["requests"] > TARGET:
        console.print(f"above the target of {TARGET:.0%} during the requests")


def measure(config: EvalConfig, rounds: int, flags: list[str], console: Console) -> tuple[list[Arm], float]:
    """Run all arms against one server, which sleeps while nobody asks: SGLang's would spin on a core.

    Returns:
        The arms, and the CPU seconds of the whole command once more where every answer is on disk already:
        start and report without requests.
    """
    most = ["--max-running-requests", str(config.concurrency), "--sleep-on-idle", *flags]
    order = ROUND * rounds
    with (
        Server(MODEL, most, config.out / "server.log") as server,
        Progress(console=console, refresh_per_second=1) as progress,
    ):
        endpoint, requests = made_ready(config, server.url)
        asyncio.run(ask_bare(endpoint, requests[:WARM_UP]))
        task = progress.add_task("requests", total=len(order) * len(requests))
        arms: list[Arm] = []
        for place, name in enumerate(order):
            progress.update(task, description=f"{name} ({place + 1} of {len(order)})")
            flush(server.url)
            before = server_cpu(server)
            if name == BARE:
                seconds, cpu = run_bare(endpoint, requests)
                times = (seconds, 0.0, 0.0)
            else:
                folder = config.out / f"{HARNESS}-{sum(arm.name == HARNESS for arm in arms)}"
                times, cpu = run_harness(config, server.url, folder)
            arms.append(Arm(name, *times, cpu, server_cpu(server) - before, os.getloadavg()[0]))
            progress.console.print(arms[-1])
            progress.advance(task, len(requests))
        _, again_cpu = run_harness(config, server.url, config.out / f"{HARNESS}-0")
    return arms, again_cpu


def made_ready(config: EvalConfig, url: str) -> tuple[Endpoint, list[Request]]:
    """The requests that the harness will make."""
    (part,) = config.parts
    checkpoint = Checkpoint(locate(MODEL))
    examples = part.task.examples(part.level, config.split, config.seed, config.num_problems(part))
    served, limit = server_info(url)["served_model_name"], config.token_limit(part)
    endpoint = Endpoint(url, served, limit, config.temperature, config.top_p, config.concurrency)
    return endpoint, [Request(i, checkpoint.prompt_ids(e.prompt), None) for i, e in enumerate(examples)]


def run_bare(endpoint: Endpoint, requests: Sequence[Request]) -> tuple[float, float]:
    """Seconds, and CPU seconds of this process."""
    began, cpu = time.monotonic(), time.process_time()
    asyncio.run(ask_bare(endpoint, requests))
    return time.monotonic() - began, time.process_time() - cpu


async def ask_bare(endpoint: Endpoint, requests: Sequence[Request]) -> None:
    """Ask everything over as many connections as requests are in flight; keep nothing."""
    place = urlsplit(endpoint.url)
    waiting = iter([_message(endpoint, request, place.netloc) for request in requests])

    async def connection() -> None:
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        for message in waiting:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in head.split(b"\r\n", 1)[0]:
                raise SystemExit(f"error: {endpoint.url}: found {head.decode()!r}, expected status 200")
            length = head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]
            await reader.readexactly(int(length))
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(min(endpoint.concurrency, len(requests))):
            group.create_task(connection())


def _message(endpoint: Endpoint, request: Request, host: str) -> bytes:
    body = json.dumps(completion_body(endpoint, request)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def run_harness(config: EvalConfig, url: str, folder: Path) -> tuple[tuple[float, float, float], float]:
    """Seconds of requests, start and report, by the clock of the run folder's files; CPU seconds.

    ``run.json`` is written just before the first prompt is made, the journal's last record ends the requests.
    """
    command = [sys.executable, "-m", "rlkv", "eval", "run", "--endpoint", url, "--out", str(folder)]
    command += ["--tasks", TASK, "--n", str(config.n), "--methods", FULL]
    command += ["--concurrency", str(config.concurrency)]
    began = time.time()
    before = os.times()
    with folder.with_suffix(".log").open("w") as log:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
    ended, after = time.time(), os.times()
    first, last = (folder / RUN_FILE).stat().st_mtime, journal_of(folder).stat().st_mtime
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return (last - first, first - began, ended - last), cpu


def journal_of(folder: Path) -> Path:
    (entry,) = read_run(folder).entries
    return folder / entry.file


def flush(url: str) -> None:
    """Empty the prefix cache, which an idle server agrees to."""
    urlopen(Post(f"{url}/flush_cache", method="POST"), timeout=60).close()


def server_cpu(server: Server) -> float:
    """User and system seconds of all processes of the server's session so far."""
    return sum(_cpu_of(stat, server.process.pid) for stat in Path("/proc").glob("[0-9]*/stat"))


def _cpu_of(stat: Path, session: int) -> float:
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0  # ended meanwhile
    return sum(map(int, fields[11:13])) / TICKS if int(fields[3]) == session else 0.0


def parts_alone(config: EvalConfig, run: Path) -> dict[str, float]:
    """Seconds that parts of the work take alone, on the answers of a run, one answer at a time."""
    (part,) = config.parts
    header, samples = read_journal(journal_of(run))
    examples = read_problems(run, part.label)

    def grade() -> None:
        for example, sample in zip(examples, samples, strict=True):
            part.task.grade([example], [sample.text])

    def record() -> None:
        with open_journal(run / "again.jsonl", header, len(samples), 1) as journal:
            for sample in samples:
                journal.append([sample])

    def ready() -> None:
        checkpoint = Checkpoint(locate(MODEL))
        for example in examples:
            checkpoint.prompt_ids(example.prompt)

    modules = "import rlkv_eval.runner, rlkv_eval.served.engine, rlkv_eval.progress"
    return {
        "imports before the first request": timed(
            lambda: subprocess.run([sys.executable, "-c", modules], check=True)
        ),
        "tokenizer and prompts": timed(ready),
        "grading": timed(grade),
        "records": timed(record),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.monotonic()
    work()
    return time.monotonic() - began


def added(arms: Sequence[Arm], again_cpu: float) -> dict[str, float]:
    """What the harness adds, in terms of the bare arm's seconds; and of CPU time, which load changes less.

    Args:
        arms: of both names.
        again_cpu: from ``measure``.
    """
    bare, harness = ([arm for arm in arms if arm.name == name] for name in (BARE, HARNESS))

    def share(of: Callable[[Arm], float]) -> float:
        return statistics.fmean(map(of, harness)) / statistics.fmean(map(of, bare)) - 1

    return {
        "requests": share(lambda arm: arm.requests_s),
        "whole command": share(lambda arm: arm.whole_s),
        "CPU seconds of client and server, requests": share(
            lambda arm: arm.client_cpu_s + arm.server_cpu_s - again_cpu * (arm.name == HARNESS)
        ),
        "CPU seconds of client and server, whole command": share(
            lambda arm: arm.client_cpu_s + arm.server_cpu_s
        ),
    }


def arms_table(arms: Sequence[Arm]) -> Table:
    columns = ("start s", "requests s", "report s", "client CPU s", "server CPU s", "load")
    table = Table("arm", *columns, box=None)
    for arm in arms:
        numbers = (arm.start_s, arm.requests_s, arm.report_s, arm.client_cpu_s, arm.server_cpu_s, arm.load)
        table.add_row(arm.name, *(f"{number:.2f}" for number in numbers))
    return table


def parts_table(alone: Mapping[str, float]) -> Table:
    table = Table("part of the harness, alone", "s", box=None)
    for name, seconds in alone.items():
        table.add_row(name, f"{seconds:.2f}")
    return table


if __name__ == "__main__":
    main()
