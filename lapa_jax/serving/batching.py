"""Requests of many clients -> calls of the policy, several in one."""

import asyncio
import collections
import dataclasses
import time
from collections.abc import Callable, Mapping
from concurrent import futures
from typing import Any

from lapa_jax.serving.calls import Answer, Calls, likeness
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.metrics import Metrics
from lapa_jax.serving.options import Options


@dataclasses.dataclass(eq=False)
class Waiting:
    """A request that waits for a call."""

    observation: Mapping[str, Any]
    likeness: Any
    answer: asyncio.Future[tuple[Answer, float, float]]
    since: float


class Batcher:
    """One call at a time, in a thread of its own; what arrives meanwhile shares the next one.

    An idle policy waits up to `max_wait_ms` for as many requests as there are clients; for one client not at all.

    Args:
        clients: how many may ask at this moment.
    """

    def __init__(self, calls: Calls, options: Options, metrics: Metrics, clients: Callable[[], int]) -> None:
        self._calls, self._options, self._metrics, self._clients = calls, options, metrics, clients
        self._queue: collections.deque[Waiting] = collections.deque()
        self._arrived = asyncio.Event()
        self._thread = futures.ThreadPoolExecutor(1, thread_name_prefix="policy")

    async def submit(self, observation: Mapping[str, Any]) -> tuple[Mapping[str, Any], float, float]:
        """The answer, and the seconds that it waited and that the call took.

        Raises:
            Failure: "busy", "too_late", or what the policy's answer is.
        """
        if len(self._queue) >= self._options.max_queue:
            raise Failure("busy", f"{self._options.max_queue} requests are waiting: try again in a moment")
        future = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(observation, likeness(observation), future, time.perf_counter()))
        self._metrics.waiting.set(len(self._queue))
        self._arrived.set()
        try:
            async with asyncio.timeout(self._options.request_s):
                answer, waited, took = await future
        except TimeoutError:
            raise Failure("too_late", f"no answer within {self._options.request_s} s; none will come") from None
        if isinstance(answer, Failure):
            raise answer
        return answer, waited, took

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        """Something else that needs the policy for itself, such as warming up."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while True:
                await self._gather()
                batch = self._take()
                if batch:
                    await self._call(batch)
        finally:
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _gather(self) -> None:
        """Until there are requests enough for a call."""
        while not self._queue:
            self._arrived.clear()
            await self._arrived.wait()
        until = self._queue[0].since + self._options.max_wait_ms / 1000
        while len(self._queue) < min(self._clients(), self._calls.share(self._options.max_batch)):
            left = until - time.perf_counter()
            if left <= 0:
                return
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Waiting]:
        """The oldest request and those like it; who has left is forgotten."""
        alive = [one for one in self._queue if not one.answer.done()]
        alike = [one for one in alive if one.likeness == alive[0].likeness]
        batch = alike[: self._calls.share(len(alike))] if alike else []
        chosen = set(batch)
        self._queue = collections.deque(one for one in alive if one not in chosen)
        self._metrics.waiting.set(len(self._queue))
        return batch

    async def _call(self, batch: list[Waiting]) -> None:
        begun = time.perf_counter()
        observations = [one.observation for one in batch]
        answers = await self.in_thread(lambda: self._calls.answers(observations))
        took = time.perf_counter() - begun
        self._metrics.infer.observe(took)
        self._metrics.batch.observe(len(batch))
        for one, answer in zip(batch, answers, strict=True):
            self._metrics.queue.observe(begun - one.since)
            if not one.answer.done():
                one.answer.set_result((answer, begun - one.since, took))
