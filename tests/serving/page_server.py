"""A server around the page in a process of its own; says its address on the first line it prints.

    python tests/serving/page_server.py                      a policy of a few lines, in the tabletop
    python tests/serving/page_server.py FINETUNE [LAQ]       a trained one

More arguments, as NAME=JSON, are fields of `page.Live`.
"""

import asyncio
import functools
import json
import socket
import sys

import page_world
import uvicorn
from starlette.applications import Starlette

from lapa_jax import envs
from lapa_jax.serving import page


def trained(folder, laq=None):
    """The fields of a `page.Live` around a checkpoint, warmed up."""
    import numpy as np

    from lapa_jax import policy
    from lapa_jax.serving import imagination

    served = policy.Policy.from_checkpoint(folder)
    served.infer({"image": np.zeros((64, 64, 3), np.uint8), "instruction": "push the red cube"})
    imagine = imagination.Imagination.from_checkpoint(laq, served.metadata) if laq else None
    return dict(
        infer=functools.partial(asyncio.to_thread, served.infer), metadata=served.metadata, imagine=imagine
    )


def main(arguments):
    folders = [one for one in arguments if "=" not in one]
    changes = {name: json.loads(value) for name, value in (one.split("=", 1) for one in arguments if "=" in one)}
    envs.MODULES["fake_arm"] = "fake_arm"
    if changes.get("environment") == "fake_arm":
        changes |= dict(infer=page_world.wave, metadata=page_world.ARM)
    shown = page.Live(**trained(*folders) | changes) if folders else page_world.live(**changes)
    app = Starlette(routes=page.routes(shown))
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    print(f"http://{host}:{port}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listening])


if __name__ == "__main__":
    main(sys.argv[1:])
