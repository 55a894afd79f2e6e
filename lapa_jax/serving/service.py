"""A policy with all that its routes share: state, limits, counts, one way to an answer."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from lapa_client import messages
from lapa_jax import __version__
from lapa_jax.serving.batching import Batcher
from lapa_jax.serving.calls import Calls, Policy
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.fields import Fields
from lapa_jax.serving.metrics import Metrics
from lapa_jax.serving.options import Options

log = logging.getLogger(__name__)
PROTOCOL = 1
"""Of this server; grows when an old client would misread a new answer."""


class Service:
    """
    Attributes:
        ready: set once warmed up.
        ending: set when the server was told to end.
        broken: why it could not warm up.
        hurry: running requests are not waited for.

    Raises:
        UserError: options and policy do not go together.
    """

    def __init__(self, policy: Policy, options: Options) -> None:
        self.policy, self.options, self.metrics = policy, options, Metrics(options.sizes)
        self.fields = Fields(policy.metadata, options.names, options.max_pixels)
        self.ready, self.ending = asyncio.Event(), asyncio.Event()
        self.broken: Exception | None = None
        self.hurry = False
        self.running = {"websocket": 0, "http": 0}
        self.open = 0
        self.calls = Calls(policy, options.sizes)
        self.batcher = Batcher(self.calls, options, self.metrics, self._clients)
        limits = {"max_batch": options.max_batch, "max_message_bytes": options.max_bytes}
        server = {"name": "lapa_jax", "version": __version__, "protocol": PROTOCOL, **limits}
        self.metadata = {**policy.metadata, "server": server}

    @functools.cached_property
    def greeting(self) -> bytes:
        """The metadata as the first message of a websocket."""
        return messages.pack(self.metadata)

    async def warm_up(self) -> None:
        """Calls the policy with each size of batch, so that no client waits for a compiler."""
        example = functools.partial(self.fields.example, int(self.policy.metadata["image_size"]))
        try:
            await self.batcher.in_thread(functools.partial(self.calls.warm_up, example))
        except Exception as error:  # noqa: BLE001 - told to whoever runs the server, which ends
            log.error("the policy failed when it was warmed up", exc_info=error)
            self.broken = error
            return
        took = ", ".join(f"{size}: {1e3 * seconds:.1f}" for size, seconds in self.calls.seconds.items())
        log.info("ready; milliseconds of a call by its size: %s", took)
        self.ready.set()
        self.metrics.ready.set(1)

    def check_ready(self) -> None:
        """
        Raises:
            Failure: "warming_up" or "shutting_down".
        """
        if self.ending.is_set():
            raise Failure("shutting_down", "this server is shutting down")
        if not self.ready.is_set():
            raise Failure("warming_up", "the policy is warming up: try again in a moment")

    @contextlib.contextmanager
    def request(self, transport: str) -> Iterator[None]:
        """Around all that is done for one request of a "websocket" or over "http"; counts it, and how it ends."""
        begun = time.perf_counter()
        self.running[transport] += 1
        try:
            yield
            self.metrics.request.labels(transport).observe(time.perf_counter() - begun)
        except Failure as failure:
            self.count(failure)
            raise
        finally:
            self.running[transport] -= 1

    @contextlib.contextmanager
    def connection(self) -> Iterator[None]:
        """Around a websocket."""
        self.open += 1
        self.metrics.connections.set(self.open)
        try:
            yield
        finally:
            self.open -= 1
            self.metrics.connections.set(self.open)

    def count(self, failure: Failure) -> None:
        self.metrics.errors.labels(failure.code).inc()

    async def infer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """`answer` to a message that is not checked yet, under any names that `fields` knows."""
        return await self.answer(self.fields.of(message))

    async def answer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to an observation of `fields.of`, as it is sent.

        Returns:
            `actions` float32[horizon, A], `latents` a list of N (openpi's clients take a row of each array at each
            step, so it must not be one), and `server_timing` in ms.

        Raises:
            Failure: there is none.
        """
        self.check_ready()
        answer, waited, took = await self.batcher.submit(observation)
        made: dict[str, Any] = {"actions": answer["actions"]}
        if "latents" in answer:
            made["latents"] = np.asarray(answer["latents"]).tolist()
        return {**made, "server_timing": {"infer_ms": 1e3 * took, "queue_ms": 1e3 * waited}}

    def _clients(self) -> int:
        """Who may be asking now."""
        return self.open + self.running["http"]

    async def drain(self) -> None:
        """Refuses what is new and waits for what is running, `grace_s` at most."""
        self.ending.set()
        self.ready.set()  # who waits for it is told
        self.metrics.ready.set(0)
        until = time.monotonic() + self.options.grace_s
        while (self.open or any(self.running.values())) and not self.hurry and time.monotonic() < until:
            await asyncio.sleep(0.02)
