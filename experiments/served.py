"""A policy behind a server, which answers as one in this process does."""

import queue
from collections.abc import Mapping
from concurrent import futures
from typing import Any

import numpy as np

from lapa_jax import errors

ANSWER = ("actions", "latents")
"""What is kept of an answer."""

TOLD = ("cameras", "proprio_dim", "checkpoint")
"""What has to be known of a policy, from the metadata of its server."""

CONNECTIONS = 16
"""The rows of a batch are asked for at the same time, so that the server can answer several in one call."""


class Served:
    """A policy by the address of its server, ws://HOST:PORT.

    Attributes:
        metadata: what the server says of it.

    Raises:
        UserError: no server there, one that refuses, or the client package is missing.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self._address, self._token = address, token
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        self._all = [self._connect()]
        self._idle.put(self._all[0])
        try:
            self.metadata = _checked(address, self._all[0].metadata)
        except errors.UserError:
            self._all[0].close()
            raise
        self._threads = futures.ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="served")

    def infer(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """As `Policy.infer`, for one observation or a batch of them.

        Raises:
            UserError: the server refuses, or is gone.
        """
        if isinstance(observation["instruction"], str):
            return self._one(observation)
        count = len(observation["instruction"])
        while len(self._all) < min(count, CONNECTIONS):
            self._all.append(self._connect())
            self._idle.put(self._all[-1])
        rows = [{name: value[i] for name, value in observation.items()} for i in range(count)]
        found = list(self._threads.map(self._one, rows))
        return {name: np.stack([one[name] for one in found]) for name in ANSWER if name in found[0]}

    def close(self) -> None:
        self._threads.shutdown()
        for client in self._all:
            client.close()

    def _one(self, observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
        client = self._idle.get()
        try:
            answer = client.infer(observation)
            if client.metadata["checkpoint"] != self.metadata["checkpoint"]:  # it connects again by itself
                raise errors.UserError(f"{self._address} serves another checkpoint by now: run this again")
            return answer
        except _package().ServerError as error:
            raise errors.UserError(f"{self._address}: {error}") from error
        finally:
            self._idle.put(client)

    def _connect(self) -> Any:
        try:
            return _package().Client(self._address, token=self._token)
        except (_package().ServerError, ValueError) as error:
            raise errors.UserError(f"{self._address}: {error}") from error


def _checked(address: str, metadata: Any) -> Mapping[str, Any]:
    """What a policy is driven by. Servers of others speak the protocol and tell something else."""
    missing = [name for name in TOLD if not isinstance(metadata, Mapping) or name not in metadata]
    if missing:
        raise errors.UserError(f"{address} tells no {missing[0]} of its policy: it is no server of this project")
    return metadata


def _package() -> Any:
    try:
        import lapa_client
    except ImportError as error:
        raise errors.UserError("policies behind a server need the client: run `pip install ./client`") from error
    return lapa_client
