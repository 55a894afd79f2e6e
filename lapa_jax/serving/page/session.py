"""One person at a page: an environment of their own, looked at, planned for, and stepped at its own rate."""

import asyncio
import collections
import concurrent.futures
import functools
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.serving.page import messages
from lapa_jax.serving.page.live import Live
from lapa_jax.serving.page.painter import Painter
from lapa_jax.serving.page.scene import Scene, checked

Send = Callable[[dict[str, Any]], Awaitable[None]]

USUAL_RATE = 10.0
"""Steps a second of an environment that names no rate."""
BETWEEN_SCENES = 1.0
"""Seconds for which the end of an episode stays, before the next scene comes by itself."""
MOST_OWED = 10
"""Single steps that are remembered when they are asked for faster than they are done."""

log = logging.getLogger(__name__)


class Session:
    """What a person asks for is noted by `take`, at once; `run` does it, one thing after the other.

    The environment lives in a thread of its own, so that the event loop never waits for a simulator.

    Args:
        send: takes a message to the page, and does not fail.
    """

    def __init__(self, live: Live, send: Send) -> None:
        self._live, self._send = live, send
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="page")
        self._painter = Painter(live.imagine, send) if live.imagine else None
        self._env, self._scene = None, Scene({})
        self._seed, self._wanted_seed = 0, 0
        self._running, self._owed, self._again, self._speed = False, 0, False, 1.0
        self._words, self._due = "", 0.0
        self._asked = asyncio.Event()
        self._begin_plan()

    async def run(self) -> None:
        """Until it is cancelled.

        Raises:
            UserError: the environment cannot be made, or takes other actions than the policy gives.
        """
        try:
            await self._in_thread(self._open)
            await self._send(self._welcome())
            self._asked.set()
            await first_of(self._work(), *([self._painter.run()] if self._painter else []))
        finally:
            self._thread.submit(self._close)
            self._thread.shutdown(wait=False)

    def take(self, message: dict[str, Any]) -> None:
        """Notes a message of `messages.read`."""
        match message["type"]:
            case "start":
                self._running, self._owed = True, 0
            case "pause":
                self._running, self._owed = False, 0
            case "step":
                self._running, self._owed = False, min(self._owed + 1, MOST_OWED)
            case "reset":
                self._running, self._owed, self._wanted_seed = False, 0, message["seed"]
            case "speed":
                self._speed = message["value"]
            case "again":
                self._again = message["on"]
            case "instruction":
                self._words = message["text"]
                self._begin_plan()
        self._asked.set()

    def status(self) -> dict[str, Any]:
        """What the page shows beside pictures."""
        return {
            "type": "status",
            "running": self._running,
            "speed": self._speed,
            "again": self._again,
            "seed": self._seed,
            "step": self._scene.step,
            "own_instruction": self._scene.instruction,
            "instruction": self._instruction,
            "outcome": self._scene.outcome,
        }

    async def _work(self) -> None:
        while True:
            await self._asked.wait()
            try:
                await self._next()
            except errors.UserError as error:
                await self._stop(str(error))
            except Exception as error:
                log.exception("the live page could not go on")
                await self._stop(f"{type(error).__name__} in the policy or the environment; see the server's log.")

    async def _next(self) -> None:
        """The one thing that is due, or a wait for it."""
        left = self._due - time.perf_counter()
        if self._wanted_seed is not None:
            await self._reset(self._wanted_seed)
        elif not (self._running or self._owed):
            self._asked.clear()
        elif self._scene.outcome:
            await self._stop("This scene has ended: reset to begin another.")
        elif not self._actions:
            await self._look()
        elif left > 0:
            await asyncio.sleep(left)
        else:
            await self._act(self._actions.popleft())

    async def _stop(self, sentence: str) -> None:
        """Says what went wrong, and waits for the person."""
        self._running, self._owed, self._wanted_seed = False, 0, None
        self._begin_plan()
        await self._send({"type": "error", "text": sentence, "fatal": False})
        await self._send(self.status())

    async def _reset(self, seed: int) -> None:
        self._wanted_seed, self._seed = None, seed
        self._begin_plan()
        reset = functools.partial(self._env.reset, seed=self._live.first_seed + seed)
        self._scene = Scene((await self._in_thread(reset))[0])
        await self._show(None)

    async def _look(self) -> None:
        """Asks the policy, and says what it plans."""
        if not self._instruction:
            raise errors.UserError("This environment gives no instruction: type one.")
        plan, words, image = self._plan, self._instruction, self._scene.image
        shown = self._live.observed(self._scene.observation, words, self._latents)
        clock = time.perf_counter()
        found = await self._live.infer(shown)
        milliseconds = 1e3 * (time.perf_counter() - clock)
        if plan is not self._plan or self._wanted_seed is not None:
            return  # something else was asked for in the meantime
        chunk = checked(found["actions"], self._live.metadata["action_dim"])
        carried = self._plan.next(chunk[None])[:, 0]
        self._actions.extend(carried)
        self._latents = found.get("latents")
        latents = [] if self._latents is None else np.asarray(self._latents).tolist()
        await self._send(
            {
                "type": "decision", "step": self._scene.step, "instruction": words, "latents": latents,
                "actions": chunk.tolist(), "carried": carried.tolist(), "infer_ms": milliseconds,
            }
        )  # fmt: skip
        if self._painter and latents:
            self._painter.ask(self._scene.step, image, latents)

    async def _act(self, action: np.ndarray) -> None:
        """One step of the environment."""
        now, period = time.perf_counter(), 1 / (self._rate * self._speed)
        self._due = (self._due if now - self._due < period else now) + period
        self._owed = max(self._owed - 1, 0)
        found = await self._in_thread(functools.partial(self._env.step, action))
        observation, _, terminated, truncated, info = found
        self._scene.passed(observation, bool(terminated or truncated), bool(info.get("success")))
        ended = self._scene.outcome is not None
        self._running = self._running and not (ended and not self._again)
        self._owed = 0 if ended else self._owed
        await self._show(action)
        if ended and self._running:
            await self._go_on()

    async def _go_on(self) -> None:
        """To the next scene, unless the person asks for something else in the meantime."""
        await asyncio.sleep(BETWEEN_SCENES)
        if self._running and self._wanted_seed is None:
            self._wanted_seed = (self._seed + 1) % (messages.LARGEST_SEED + 1)

    async def _show(self, action: np.ndarray | None) -> None:
        """The picture of now, and the action that led to it."""
        image = messages.picture(self._scene.image)
        done = None if action is None else action.tolist()
        await self._send(self.status() | {"type": "frame", "image": image, "action": done})

    def _begin_plan(self) -> None:
        """Nothing of what was planned is carried out any more."""
        self._plan, self._actions, self._latents = self._live.chunks(), collections.deque(), None

    @property
    def _instruction(self) -> str:
        return self._words or self._scene.instruction

    @property
    def _rate(self) -> float:
        return float(self._env.metadata.get("render_fps") or USUAL_RATE)

    def _welcome(self) -> dict[str, Any]:
        live = self._live
        known = ("head", "horizon", "num_codes", "code_length", "plans_latents", "checkpoint")
        return {
            "type": "welcome",
            "policy": {name: live.metadata.get(name) for name in known},
            "environment": {"name": live.environment, "rate": self._rate},
            "actions": {"axes": live.axes(self._env), "declared": live.declared(self._env)},
            "imagination": {
                "available": live.why_no_imagination is None,
                "why": live.why_no_imagination,
                "gap": getattr(live.imagine, "gap", None),
            },
            "limits": {"instruction": live.limits.instruction, "seed": messages.LARGEST_SEED},
        }

    async def _in_thread(self, function: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _open(self) -> None:
        name = self._live.environment
        try:
            self._env = self._live.make_environment()
        except errors.UserError:
            raise
        except Exception as error:
            log.exception("the live page could not make %s", name)
            sentence = f"{type(error).__name__} while {name} was made; see the server's log."
            raise errors.UserError(sentence) from error

    def _close(self) -> None:
        if self._env is not None:
            self._env.close()


async def first_of(*coroutines: Any) -> None:
    """Runs them until one ends or fails, and ends the others."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
