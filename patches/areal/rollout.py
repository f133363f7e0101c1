"""AReaL's rollout engine over stock SGLang servers in mixed mode, which come back when they die."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from areal.api import (
    LocalInfServerInfo,
    ModelRequest,
    ModelResponse,
    ParamSpec,
    Scheduler,
    WeightUpdateMeta,
)
from areal.api.io_struct import HttpGenerationResult, HttpRequest, WeightUpdateRequests
from areal.engine.sglang_remote import RemoteSGLangEngine, SGLangBackend
from areal.infra import RemoteInfEngine, RolloutController
from areal.utils import logging

from rlkv.errors import TrainingError

from ..sglang.serve import server_environment, with_machine_flags
from . import orphans
from .config import GateRolloutConfig

logger = logging.getLogger("GateRollout")

START_POLL_S = 1.0
VERSIONS: ContextVar[list[int]] = ContextVar("versions")
"""Of the tokens that a request has got so far, in its task."""

FAILED_BATCHES = 4
"""Batches of prompts that may fail without one success before the run ends."""


class GateBackend(SGLangBackend):
    """SGLang's protocol as AReaL speaks it; servers are started by SGLang's own launcher."""

    def launch_server(self, server_args: dict[str, Any]) -> subprocess.Popen:
        """Start a server.

        Args:
            server_args: ``flags`` of ``python -m sglang.launch_server``, ``host`` and ``port``.
        """
        flags = with_machine_flags(server_args["flags"])
        address = [f"--host={server_args['host']}", f"--port={server_args['port']}"]
        command = [sys.executable, "-m", "sglang.launch_server", *flags, *address, "--skip-server-warmup"]
        return subprocess.Popen(
            command, env=server_environment(os.environ, flags), stdout=sys.stdout, stderr=sys.stdout
        )

    def parse_generation_response(self, response: dict[str, Any]) -> HttpGenerationResult:
        """AReaL's; notes the version that the server made the tokens with."""
        result = super().parse_generation_response(response)
        version = int(response["meta_info"]["weight_version"])
        VERSIONS.get().extend([version] * len(result.output_tokens))
        return result

    def build_disk_weight_update_requests(self, meta: WeightUpdateMeta) -> WeightUpdateRequests:
        """AReaL's request with the version, by which the server tags its responses."""
        payload = {"model_path": str(meta.path), "weight_version": str(meta.version)}
        return WeightUpdateRequests([HttpRequest("/update_weights_from_disk", payload)])

    def build_distributed_weight_update_requests(
        self, meta: WeightUpdateMeta, param_specs: list[ParamSpec]
    ) -> WeightUpdateRequests:
        """AReaL's request with the version."""
        built = super().build_distributed_weight_update_requests(meta, param_specs)
        for request in built.requests:
            request.payload["weight_version"] = str(meta.version)
        return built


class GateInfEngine(RemoteInfEngine):
    """AReaL's client, which starts a server of its own anew when that has died.

    A request that fails because the server is gone is sent again from its beginning to the new one, which has
    the gates of the version that requests are tagged with.
    """

    config: GateRolloutConfig

    def __init__(self, config: GateRolloutConfig) -> None:
        super().__init__(config, GateBackend())
        self._server_args: dict[str, Any] = {}
        self._gates: WeightUpdateMeta | None = None
        self._restarts = self._attempts = 0
        self._reviving = threading.Lock()

    def launch_server(self, server_args: dict[str, Any]) -> LocalInfServerInfo:
        random.seed()  # as in trainer.py: the port is drawn from here
        info = super().launch_server(server_args)
        self._server_args = dict(server_args)
        return info

    def _wait_for_server(self, address: str, process: subprocess.Popen | None = None) -> None:
        """AReaL's waits as long as it may, for a server too that has ended with an error.

        Raises:
            TrainingError: the server ended, or did not answer within ``setup_timeout``.
        """
        end = time.monotonic() + self.config.setup_timeout
        while not self.check_health(f"http://{address}"):
            if process is not None and process.poll() is not None:
                raise TrainingError(
                    f"the rollout server ended with status {process.returncode} before it answered, "
                    "expected it to start: its last lines say why"
                )
            if time.monotonic() > end:
                raise TrainingError(f"the rollout server did not answer in {self.config.setup_timeout:g} s")
            time.sleep(START_POLL_S)

    async def agenerate(self, req: ModelRequest) -> ModelResponse:
        """AReaL's, with the server's versions: AReaL takes that of the moment when it reads a response."""
        while True:
            server = self._restarts
            versions: list[int] = []
            VERSIONS.set(versions)
            try:
                response = await super().agenerate(req)
                response.output_versions = versions
                return response
            except RuntimeError:
                if not await asyncio.to_thread(self.revive, server):
                    raise

    def pause_generation(self) -> None:
        self.revive(self._restarts)
        super().pause_generation()

    def update_weights_from_disk(self, meta: WeightUpdateMeta) -> Future[None]:
        """AReaL's; remembers the folder, from which a new server takes its gates."""
        future = super().update_weights_from_disk(meta)

        def remember(done: Future[None]) -> None:
            if done.exception() is None:
                self._gates = meta

        future.add_done_callback(remember)
        return future

    def revive(self, failed: int) -> bool:
        """Replace the server if it has died.

        Args:
            failed: restarts before the server that a request failed on.

        Returns:
            Whether there is a newer server than that.

        Raises:
            TrainingError: it died more often than ``server_restarts``.
        """
        with self._reviving:
            for info in self.local_server_processes:
                if self._restarts == failed and info.process.poll() is not None:
                    self._replace(info)
            return self._restarts > failed

    def _replace(self, info: LocalInfServerInfo) -> None:
        status = info.process.poll()
        if self._attempts >= self.config.server_restarts:
            raise TrainingError(
                f"the rollout server on port {info.port} ended with status {status} after "
                f"{self._attempts} restarts, expected it to run"
            )
        self._attempts += 1  # also of those that die before they answer
        logger.warning(f"rollout server on port {info.port} ended with status {status}: starting it anew")
        info.process = self.backend.launch_server(self._server_args)
        self._wait_for_server(f"{info.host}:{info.port}", process=info.process)
        if self._gates is not None:
            for request in self.backend.build_disk_weight_update_requests(self._gates).requests:
                self._run_request_on_all_servers(request)
        self._restarts += 1


class GateRolloutEngine(RemoteSGLangEngine):
    """The engine that AReaL's rollout workers run."""

    def __init__(self, config: GateRolloutConfig) -> None:
        self.config = config
        self._engine = GateInfEngine(config)
        orphans.end_with(config.controller)

    @classmethod
    def as_controller(cls, config: GateRolloutConfig, scheduler: Scheduler) -> GateRolloutController:
        return GateRolloutController(cls, config=config, scheduler=scheduler)


class GateRolloutController(RolloutController):
    """AReaL's, which keeps each version's gates and ends a run whose rollouts all fail."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed_in_a_row = 0

    async def update_weights_from_disk(self, meta: WeightUpdateMeta) -> None:
        """AReaL's, without removing the folder: a few hundred numbers, from which a server can restart."""
        meta.clear_checkpoint_after_load = False
        await self._collective_rpc_async("update_weights_from_disk", meta=meta)

    def _create_submit_callback(self, pending_task: Any) -> Callable[[], Coroutine[Any, Any, Any]]:
        """AReaL's, which takes a failed rollout for a rejected one and would ask for others without end."""
        submit = super()._create_submit_callback(pending_task)
        limit = FAILED_BATCHES * self.config.consumer_batch_size

        async def counted() -> Any:
            result = await submit()
            self._failed_in_a_row = 0 if result is not None else self._failed_in_a_row + 1
            if self._failed_in_a_row >= limit:
                self.dispatcher._set_thread_exception(
                    TrainingError(f"{self._failed_in_a_row} rollouts failed in a row, see the workers' logs")
                )
            return result

        return counted
