"""Policies of a few lines, a server around the page, and somebody who talks to it."""

import asyncio
import contextlib
import json
import threading
import time

import numpy as np
import uvicorn
import waiting
import websockets.sync.client
from starlette.applications import Starlette

from lapa_jax import errors
from lapa_jax.serving import page
from lapa_jax.serving.imagination import Imagined

WAYS = {"left": (-1, 0), "right": (1, 0), "up": (0, 1), "down": (0, -1)}
METADATA = {
    "head": "fake",
    "horizon": 4,
    "action_dim": 2,
    "cameras": ["image"],
    "image_size": 64,
    "proprio_dim": None,
    "action_space": {"names": ["x", "y"], "units": ["m", "m"]},
    "code_length": 2,
    "num_codes": 8,
    "checkpoint": "0123456789abcdef",
}


class FakePolicy:
    """Goes where the instruction's word says, and nowhere else; its latents tell the word and the image apart."""

    def __init__(self):
        self.asked = []

    async def infer(self, observation):
        self.asked.append(observation)
        words = observation["instruction"].split()
        if len(words) > 30:
            raise errors.UserError(f"the instruction has {len(words)} words and 30 fit: shorten the instruction")
        if "break" in words:
            raise RuntimeError("broken on purpose")
        await asyncio.sleep(3.5 if "slowly" in words else 0.002)
        way = next((WAYS[word] for word in words if word in WAYS), (0, 0))
        actions = np.tile(np.float32(way) * 0.02, (4, 1)) * np.float32([[1], [0.9], [0.8], [0.7]])
        if "nan" in words:
            actions[2] = np.nan
        latents = [list(WAYS).index(words[-1]) if words[-1] in WAYS else 7, int(observation["image"].sum()) % 8]
        return {"actions": actions, "latents": np.int32(latents)}


ARM = METADATA | {
    "horizon": 8,
    "action_dim": 7,
    "cameras": ["image", "wrist"],
    "proprio_dim": 3,
    "action_space": {
        "names": ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"],
        "units": "m,m,m,rad,rad,rad,",
        "convention": "delta of the end effector",
    },
    "code_length": 4,
}


async def wave(observation):
    """Seven numbers an action, for `fake_arm`."""
    assert observation["wrist"].shape == (120, 120, 3) and observation["proprio"].shape == (3,)
    angles = np.arange(8)[:, None] / 3 + np.arange(7) + observation["proprio"][0]
    scales = np.float32([0.02, 0.02, 0.02, 0.2, 0.2, 0.2, 0.4])
    return {"actions": np.sin(angles) * scales, "latents": np.int32([1, 0, 7, 3])}


def imagine(image, latents):
    """The image, moved by as many columns as the first code says."""
    return Imagined(image, np.roll(image, int(latents[0]), axis=1))


def live(policy=None, **changes):
    policy = policy or FakePolicy()
    return page.Live(**dict(infer=policy.infer, metadata=METADATA, imagine=imagine) | changes)


@contextlib.contextmanager
def serving(shown):
    """"127.0.0.1:PORT" of a server around the page."""
    app = Starlette(routes=page.routes(shown))
    server = uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    waiting.until(lambda: server.started or not thread.is_alive())
    assert server.started, "the server did not start"
    host, port = server.servers[0].sockets[0].getsockname()
    try:
        yield f"{host}:{port}"
    finally:
        server.should_exit = True
        thread.join(waiting.PATIENCE)
        assert not thread.is_alive(), "the server did not end"


class Talk:
    """A page without a browser."""

    def __init__(self, address, **options):
        self._connection = websockets.sync.client.connect(f"ws://{address}/page/live", **options)
        self.socket = self._connection.__enter__()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._connection.__exit__(*error)

    def say(self, **message):
        self.socket.send(json.dumps(message))

    def hear(self, kind, **fields):
        """The next message of that type whose fields are as given; others are left out."""
        deadline = time.monotonic() + waiting.PATIENCE
        while True:
            message = json.loads(self.socket.recv(timeout=deadline - time.monotonic()))
            if message["type"] == kind and all(message[name] == value for name, value in fields.items()):
                return message
            assert kind == "error" or message["type"] != "error", message
