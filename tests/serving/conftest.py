"""Servers for the tests beside this file."""

import contextlib
import socket

import pytest
from fake_policy import FakePolicy

WHY = "the server is not installed (extra [serve])"


@pytest.fixture
def serve():
    """(policy, **options) -> a server that is ready."""
    servers = pytest.importorskip("servers", reason=WHY)
    with contextlib.ExitStack() as stack:

        def start(policy=None, wait=True, **changes):
            running = servers.Running(policy or FakePolicy(), **changes)
            stack.callback(running.end)
            return running.until_ready() if wait else running

        yield start


@pytest.fixture(scope="module")
def shared_server():
    """One server for tests that leave it as it was."""
    servers = pytest.importorskip("servers", reason=WHY)
    running = servers.Running(FakePolicy(cameras=("image", "wrist_image"), proprio_dim=2)).until_ready()
    yield running
    running.end()


@pytest.fixture
def unused_port():
    """Nobody listens there."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
