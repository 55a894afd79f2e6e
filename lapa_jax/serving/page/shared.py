"""The policy of a server, as a page asks it."""

from collections.abc import Mapping
from typing import Any

from lapa_jax import errors
from lapa_jax.serving.failures import Failure
from lapa_jax.serving.page.live import Infer
from lapa_jax.serving.service import Service


def of_service(service: Service) -> Infer:
    """Pages wait for a warm policy, then in line with the server's other clients, and share their calls."""

    async def infer(observation: dict[str, Any]) -> Mapping[str, Any]:
        """Raises UserError: why there is no answer."""
        await service.ready.wait()
        try:
            with service.request("websocket"):
                return await service.infer(service.fields.of(observation))
        except Failure as failure:
            raise errors.UserError(str(failure)) from None

    return infer
