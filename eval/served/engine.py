"""Answers from a server: one that runs, or one started for each configuration."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

from rlkv.generation import CacheRecipe, HeadSplit
from rlkv.heads import HeadsFile, ModelShape, Provenance, package_versions
from rlkv.planner import CacheShape

from ..answer import Answer
from ..checkpoint import Checkpoint
from ..config import EvalConfig
from ..identity import head_rows
from ..throughput.client import server_info
from ..throughput.launch import Server, split_flags
from .check import ELEMENT_BYTES, RECORDED, cache_type, check_server
from .client import Endpoint, Reply, Request, ask

PACKAGES = ("rlkv", "math-verify")


class RunningServer:
    """Answers from a server that somebody else started; it has one cache (an ``Answerer``).

    Raises:
        DataError: there is no SGLang server.
    """

    unit = 1

    def __init__(self, config: EvalConfig, checkpoint: Checkpoint, url: str) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.url = url.rstrip("/").removesuffix("/v1")
        self.info = server_info(self.url)

    def settings(self) -> dict[str, Any]:
        """What changes an answer, as the server has it."""
        return {
            "name": "sglang",
            "dtype": self.config.dtype,
            "kv_cache_dtype": cache_type(self.info, self.checkpoint),
            "server": {name: self.info.get(name) for name in RECORDED},
            "packages": {**package_versions(*PACKAGES), "sglang": self.info["version"]},
        }

    def answer(
        self,
        problems: Sequence[str],
        recipe: CacheRecipe | None,
        max_new_tokens: int,
        done: Collection[int],
    ) -> Iterator[list[Answer]]:
        """Answer users' messages, as they are ready; see ``Answerer``.

        Raises:
            ConfigError: the server runs something else.
            DataError: it fails.
        """
        config = self.config
        missing = sorted(set(range(len(problems))) - set(done))
        if not missing:
            return  # and no reason to look at the server
        split = _split(recipe)
        check_server(self.info, config.model, self.checkpoint, config.dtype, split)
        prompts = {index: self.checkpoint.prompt_ids(problems[index]) for index in missing}
        requests = [Request(index, prompts[index], self._seed(index)) for index in missing]
        endpoint = Endpoint(
            self.url,
            self.info["served_model_name"],
            max_new_tokens,
            config.temperature,
            config.top_p,
            config.concurrency,
        )
        cost = _KVCost(self.checkpoint, cache_type(self.info, self.checkpoint), split)
        for replies in ask(endpoint, requests):
            yield [self._answer(reply, prompts[reply.index], cost) for reply in replies]

    def close(self) -> None:
        """The server goes on."""

    def _seed(self, index: int) -> int | None:
        return self.config.seed * 1_000_003 + index if self.config.temperature else None

    def _answer(self, reply: Reply, prompt: list[int], cost: _KVCost) -> Answer:
        cached = len(prompt) + len(reply.token_ids) - 1  # the last token is never an input
        return Answer(
            index=reply.index,
            text=str(self.checkpoint.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)),
            token_ids=reply.token_ids,
            prompt_length=len(prompt),
            finish_reason=reply.finish_reason,
            seed=self._seed(reply.index),
            kv_bytes=cost.of(cached),
            kv_mean_bytes=fmean(cost.of(length) for length in range(len(prompt), cached + 1)),
            cached_tokens=cached,
        )


class OwnServer:
    """Answers from servers that are started when they are first needed, one at a time (an ``Answerer``).

    Args:
        log: file for the output of the server that runs.

    Raises:
        ConfigError: the flags cannot be read.
    """

    unit = 1

    def __init__(self, config: EvalConfig, checkpoint: Checkpoint, log: Path) -> None:
        self.config = config
        self.checkpoint = checkpoint
        self.log = log
        self._flags = split_flags(config.server_flags)
        self._server: Server | None = None
        self._running: RunningServer | None = None
        self._rows: list[str] | None = None

    def settings(self) -> dict[str, Any]:
        """What changes an answer, as the servers will be started."""
        return {
            "name": "sglang",
            "dtype": self.config.dtype,
            "server": self._flags,
            "packages": package_versions(*PACKAGES, "sglang"),
        }

    def answer(
        self,
        problems: Sequence[str],
        recipe: CacheRecipe | None,
        max_new_tokens: int,
        done: Collection[int],
    ) -> Iterator[list[Answer]]:
        """Answer users' messages from a server with that cache; see ``Answerer``.

        Raises:
            DataError: it does not start, or fails.
        """
        if len(done) < len(problems):
            yield from self.start(_split(recipe)).answer(problems, recipe, max_new_tokens, done)

    def close(self) -> None:
        """End the server that runs."""
        if self._server is not None:
            self._server.stop()
            self._server = self._running = None

    def start(self, split: HeadSplit | None) -> RunningServer:
        """The server with that cache, which may be running already; another one is ended."""
        rows = None if split is None else [str(split.window), *head_rows(split)]
        if self._running is None or rows != self._rows:
            self.close()
            with TemporaryDirectory() as folder:
                flags = ["--dtype", self.config.dtype, *self._flags]
                flags += _cache_flags(split, self.checkpoint, Path(folder) / "heads.json")
                self._server = Server(str(self.checkpoint.folder), flags, self.log)
            self._running = RunningServer(self.config, self.checkpoint, self._server.url)
            self._rows = rows
        return self._running


def _split(recipe: CacheRecipe | None) -> HeadSplit | None:
    assert recipe is None or isinstance(recipe, HeadSplit), "EvalConfig refuses other caches of a server"
    return recipe


class _KVCost:
    """Bytes of keys and values by tokens, in a server whose pools are laid out for the heads that stream."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, split: HeadSplit | None) -> None:
        model = ModelShape.from_config(checkpoint.model_config, model_id="")
        stock = [[False] * model.num_kv_heads] * model.num_layers
        mask = stock if split is None else split.streaming.tolist()
        self._shape = CacheShape.of(mask, model.head_dim, ELEMENT_BYTES[dtype])
        self._window = 0 if split is None else split.window.size

    def of(self, tokens: int) -> float:
        """What a sequence of so many tokens holds."""
        window = min(tokens, self._window)
        return float(tokens * self._shape.full_token_bytes + window * self._shape.window_token_bytes)


def _cache_flags(split: HeadSplit | None, checkpoint: Checkpoint, path: Path) -> list[str]:
    """Flags of a server in which exactly those heads stream; writes the heads file that they name."""
    if split is None:
        return []
    streaming = split.streaming
    HeadsFile(
        model=ModelShape.from_config(checkpoint.model_config, model_id=str(checkpoint.folder)),
        gates=tuple(tuple(0.0 if streams else 1.0 for streams in row) for row in streaming.tolist()),
        training_window=split.window,
        serving_window=split.window,
        recommended_sparsity=float(streaming.float().mean()),
        provenance=Provenance({"made_by": "rlkv eval, from a mask"}, "none", None, None, {}),
    ).write(path)
    return ["--rlkv-heads", str(path)]
