"""A connection to a policy server."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import websockets.exceptions
import websockets.sync.client

from lapa_client import messages
from lapa_client.failures import ServerError, Unreachable

_LOST = (websockets.exceptions.ConnectionClosed, OSError, EOFError)
_CODES = {1001: "shutting_down", 1009: "too_large", 1012: "shutting_down"}
"""What the codes of a closed connection mean, where no message said more."""


class Client:
    """Blocking; one request at a time, from any thread. A connection that was cut is made again by the next one.

        with Client("ws://127.0.0.1:8000") as client:
            actions = client.infer({"image": image, "instruction": "push the red cube left"})["actions"]

    Args:
        uri: ws://HOST:PORT, or wss:// behind a proxy that speaks TLS.
        token: where the server wants one.
        wait_s: how long to try again until a server that is starting answers; seconds.
        timeout_s: for an answer, seconds. The first of a connection waits until the policy has warmed up, `wait_s`.

    Attributes:
        metadata: what the server says of its policy, see docs/serving.md.

    Raises:
        Unreachable: no server answered in time.
        ServerError: it refuses, for instance without the right token.
    """

    def __init__(self, uri: str, token: str | None = None, wait_s: float = 60.0, timeout_s: float = 30.0) -> None:
        self.uri, self.wait_s, self.timeout_s = uri, wait_s, timeout_s
        self._headers = {"Authorization": f"Bearer {token}"} if token else None
        self._lock, self._connection, self._end = threading.Lock(), None, contextlib.ExitStack()
        self.metadata: dict[str, Any] = {}
        self._connect(wait_s)

    def infer(self, observation: Mapping[str, Any], seed: int | None = None) -> dict[str, Any]:
        """The policy's answer to one observation.

        Args:
            observation: `image` uint8[H, W, 3] RGB and `instruction` str; where `metadata` names them, further
                cameras under their names and `proprio` float[P].
            seed: of a policy that samples; without one its answers to the same observation are the same.

        Returns:
            `actions` float32[horizon, A] in the units of `metadata["action_space"]`, `latents` int32[N], and
            `server_timing`, milliseconds that the server spent on it.

        Raises:
            ServerError: the server refuses, or could not answer.
            Unreachable: the connection was lost; there is no answer, and the request may be sent again.
            TypeError: something in the observation cannot be sent.
        """
        request = dict(observation)
        if seed is not None:
            request["seed"] = seed
        message = messages.pack(request)
        with self._lock:
            if self._connection is None:
                self._connect(min(self.wait_s, self.timeout_s))
            answer = self._ask(message)
        if "latents" in answer:
            answer["latents"] = np.asarray(answer["latents"], np.int32)
        return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in answer.items()}

    def close(self) -> None:
        """Ends the connection; the next `infer` would open it again."""
        self._connection = None
        self._end.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, message: bytes) -> dict[str, Any]:
        try:
            self._send(message)
            return self._receive(self.timeout_s)
        except ServerError:
            self.close()  # the server closes after an error, too
            raise
        except _LOST as error:
            self.close()
            raise _lost(error) from error

    def _send(self, message: bytes) -> None:
        """Once more over a new connection, where the server had ended the old one before."""
        try:
            self._connection.send(message)
        except websockets.exceptions.ConnectionClosed as error:
            if error.rcvd is None or error.rcvd.code not in (1001, 1012):
                raise
            self.close()
            self._connect(min(self.wait_s, self.timeout_s))
            self._connection.send(message)

    def _receive(self, timeout_s: float) -> Any:
        try:
            answer = self._connection.recv(timeout=timeout_s)
        except TimeoutError:
            raise Unreachable("no_answer", f"{self.uri} gave no answer in {timeout_s:.1f} s") from None
        if isinstance(answer, str):
            raise ServerError.of_text(answer)
        try:
            return messages.unpack(answer)
        except messages.BadMessage as error:
            raise ServerError("bad_message", f"{self.uri} speaks another protocol: {error}") from None

    def _connect(self, wait_s: float) -> None:
        until, pause = time.monotonic() + wait_s, 0.1
        while True:
            try:
                return self._open(max(until - time.monotonic(), 0.1))
            except Unreachable as error:
                if time.monotonic() + pause > until:
                    raise error
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _open(self, wait_s: float) -> None:
        """One attempt. What passes (the server starts, ends or is full) is Unreachable, the rest ServerError."""
        try:
            connecting = websockets.sync.client.connect(
                self.uri, additional_headers=self._headers, compression=None, max_size=None, open_timeout=wait_s
            )
            self._connection = self._end.enter_context(connecting)
            self.metadata = self._receive(wait_s)
        except websockets.exceptions.InvalidStatus as error:
            raise _refused(error.response) from None
        except websockets.exceptions.InvalidURI as error:
            raise ValueError(f"{error}: give ws://HOST:PORT") from None
        except ServerError:
            self.close()
            raise
        except (TimeoutError, websockets.exceptions.InvalidHandshake) + _LOST as error:
            self.close()
            raise Unreachable("unreachable", f"no policy server at {self.uri}: {error}") from None


def _refused(response: Any) -> ServerError:
    said = ServerError.of_text(bytes(getattr(response, "body", None) or b"").decode("utf-8", "replace"))
    if response.status_code >= 500:
        return Unreachable(said.code, said.sentence)
    return said


def _lost(error: BaseException) -> Unreachable:
    """Names the reason that the server gave when it closed the connection."""
    received = getattr(error, "rcvd", None)
    code = _CODES.get(received.code, "closed") if received else "closed"
    return Unreachable(code, (received.reason if received else "") or f"the connection was lost: {error}")
