"""Servers on free ports, in threads of the test process, and short ways to talk to them."""

import contextlib
import http.client
import json
import threading
import time

import pytest
import waiting
import websockets.sync.client

from lapa_client import messages
from lapa_jax.serving import app, options, server


class Running:
    """A server in a thread, and short ways to talk to it."""

    def __init__(self, policy, extra_routes=(), port=0, **changes):
        self.policy = policy
        self.app = app.make(policy, options.Options(**changes), extra_routes)
        listening = server.bind("127.0.0.1", port)
        self.port = listening.getsockname()[1]
        self.uri = f"ws://127.0.0.1:{self.port}"
        self._server = server.Server(self.app)
        self._thread = threading.Thread(target=lambda: self._server.run(sockets=[listening]))
        self._thread.start()

    @property
    def service(self):
        return self.app.state.service

    def request(self, method, path, body=None, **headers):
        """(status, headers, body) of a request; JSON and dicts are decoded and encoded."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=waiting.PATIENCE)
        if isinstance(body, dict):
            body, headers = json.dumps(body), {"content-type": "application/json", **headers}
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): v for name, v in headers.items()})
            answer = connection.getresponse()
            text = answer.read()
            kind = answer.headers.get("content-type", "")
            return answer.status, answer.headers, json.loads(text) if kind == "application/json" else text

    def connect(self, **kwargs):
        """A websocket as openpi's client opens it."""
        return websockets.sync.client.connect(self.uri, compression=None, max_size=None, **kwargs)

    def connect_when_up(self):
        """The same of a server that may not listen yet."""
        for _ in range(200):
            try:
                return self.connect()
            except ConnectionRefusedError:
                time.sleep(0.02)
        raise AssertionError("it does not listen")

    def error_of(self, data):
        """(code, sentence, close code) that a first message gets."""
        with self.connect() as connection:
            connection.recv()
            connection.send(data if isinstance(data, bytes | str) else messages.pack(data))
            said = json.loads(connection.recv(timeout=waiting.PATIENCE))
            with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
                connection.recv(timeout=waiting.PATIENCE)
            return said["code"], said["error"], closed.value.rcvd.code

    def until_ready(self):
        waiting.until(self._is_ready)
        return self

    def _is_ready(self):
        with contextlib.suppress(ConnectionRefusedError):
            return self.request("GET", "/readyz")[0] == 200
        return False

    def end(self):
        self._server.should_exit = True
        self._thread.join(timeout=waiting.PATIENCE)
        assert not self._thread.is_alive()
