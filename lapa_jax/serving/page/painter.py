"""Pictures of what is imagined, beside the driving and never in its way."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.serving.imagination import Imagined
from lapa_jax.serving.page import messages

log = logging.getLogger(__name__)


class Painter:
    """Paints the newest request; what it has no time for is left out.

    Args:
        imagine: called in a thread.
    """

    def __init__(
        self,
        imagine: Callable[[np.ndarray, np.ndarray], Imagined],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        self._imagine, self._send = imagine, send
        self._newest: tuple[int, np.ndarray, list[int]] | None = None
        self._asked = asyncio.Event()

    def ask(self, step: int, image: np.ndarray, latents: list[int]) -> None:
        """For the picture of a decision; returns at once."""
        self._newest = step, image, latents
        self._asked.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            await self._send(await self._painted(*self._newest))

    async def _painted(self, step: int, image: np.ndarray, latents: list[int]) -> dict[str, Any]:
        clock = time.perf_counter()
        try:
            found = await asyncio.to_thread(self._imagine, image, np.array(latents))
        except errors.UserError as error:
            return {"type": "imagined", "step": step, "why": str(error)}
        except Exception as error:
            log.exception("the live page could not imagine")
            return {"type": "imagined", "step": step, "why": f"{type(error).__name__}; see the server's log."}
        return {
            "type": "imagined",
            "step": step,
            "seen": messages.picture(found.seen),
            "painted": messages.picture(found.painted),
            "imagine_ms": 1e3 * (time.perf_counter() - clock),
        }
