"""A server that is told to end finishes what runs, refuses what is new, and exits with 0."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import waiting
import websockets
from fake_policy import WARM, FakePolicy, expected, image

from lapa_jax import errors

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WHY = "the server is not installed (extra [serve])"
lapa_client = pytest.importorskip("lapa_client", reason=WHY)
server = pytest.importorskip("lapa_jax.serving.server", reason=WHY)
ASKED = {"image": image(5), "instruction": "push"}


@contextlib.contextmanager
def process(policy, options):
    """(Popen, port) of a server that is ready."""
    places = os.pathsep.join(map(str, (ROOT, ROOT / "client", HERE)))
    command = [sys.executable, str(HERE / "serve_fake.py"), json.dumps(policy), json.dumps(options)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": places}, **pipes) as one:
        try:
            port = int(one.stdout.readline())
            lapa_client.Client(f"ws://127.0.0.1:{port}").close()
            yield one, port
        finally:
            one.kill()


def answers_of(client, found):
    try:
        found.append(client.infer(ASKED)["actions"])
    except lapa_client.ServerError as error:
        found.append(error)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_what_is_new_refused(number):
    with process({"seconds": 2.0, "quick": WARM}, {"max_batch": 1}) as (one, port):
        running, idle = (lapa_client.Client(f"ws://127.0.0.1:{port}", wait_s=1) for _ in range(2))
        found = []
        thread = threading.Thread(target=answers_of, args=(running, found))
        thread.start()
        time.sleep(0.3)
        one.send_signal(number)
        time.sleep(0.2)
        with pytest.raises(lapa_client.Unreachable, match="shutting down") as new:
            lapa_client.Client(f"ws://127.0.0.1:{port}", wait_s=0.1)
        assert new.value.code == "shutting_down"
        with pytest.raises(lapa_client.Unreachable):
            idle.infer(ASKED)
        thread.join(waiting.PATIENCE)
        np.testing.assert_array_equal(found[0], expected(ASKED))
        assert one.wait(waiting.PATIENCE) == 0
        running.close()
        assert "Traceback" not in one.stderr.read()


def test_idle_websockets_are_told_why(serve):
    running = serve()
    with running.connect() as connection:
        connection.recv()
        running.end()
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            connection.recv(timeout=waiting.PATIENCE)
    assert closed.value.rcvd.code == 1001 and "shutting_down" in closed.value.rcvd.reason


def test_a_call_that_takes_too_long_is_not_waited_for(serve):
    running = serve(FakePolicy(seconds=1.0, quick=WARM), grace_s=0.1, max_batch=1)
    with running.connect() as connection:
        connection.recv()
        connection.send(lapa_client.messages.pack(ASKED))
        time.sleep(0.1)
        begun = time.monotonic()
        running.end()
        assert time.monotonic() - begun < 3
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            connection.recv(timeout=waiting.PATIENCE)


def test_a_policy_that_cannot_warm_up_ends_the_server():
    from lapa_jax.serving import app

    class Broken(FakePolicy):
        def infer(self, observation, seed=None):
            raise errors.UserError("out of memory")

    with pytest.raises(errors.UserError, match="warmed up: UserError: out of memory"):
        server.run(app.make(Broken()), server.bind("127.0.0.1", 0))


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(errors.UserError, match="cannot listen at 127.0.0.1:.*in use"):
            server.bind("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(errors.UserError, match="cannot listen at 203.0.113.7"):
        server.bind("203.0.113.7", 8000)
