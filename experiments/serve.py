"""A policy behind a port: openpi's websocket protocol, a REST POST /act, and a page to watch it in a browser.
docs/serving.md and docs/live-page.md have them.

    python experiments/serve.py --config.policy=runs/demo/finetune --config.port=8000
"""

import functools
import ipaddress
import pathlib
from typing import Any

import launch

from lapa_jax import errors
from lapa_jax.policy import Policy

CONFIG = launch.define_config("serve")


def read_token(path: str | None) -> str | None:
    """The text of a file, so that the token stands neither in the command nor in the list of processes."""
    if path is None:
        return None
    try:
        return pathlib.Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise errors.UserError(f"token_file={path} cannot be read: {error}") from None


def only_this_machine(host: str) -> bool:
    """Whether nobody else can connect."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


LOCAL = ("localhost", "127.0.0.1", "::1")


def main(_: Any) -> None:
    config = CONFIG.value
    if config.policy is None:
        raise errors.UserError("which policy? give --config.policy=FOLDER of a finetune run")
    try:
        import page_parts

        from lapa_jax.serving import app, options, server
    except ImportError as error:
        raise errors.UserError(f"the server needs {error.name}: pip install -e '.[serve]'") from None
    token = read_token(config.token_file)
    names, alone = options.parse_names(config.names), token is None and only_this_machine(config.host)
    hosts = (*LOCAL, config.host, *config.hosts) if alone else None
    limits = options.Options(token=token, hosts=hosts, names=names, **config.limits)
    listening = server.bind(config.host, config.port)
    launch.start(config, share="nothing")
    more = functools.partial(page_parts.routes, config.page) if config.page.show else ()
    served = app.make(Policy.from_checkpoint(config.policy), limits, more)
    if token is None and not only_this_machine(config.host):
        print("[serve] anyone who reaches this machine may ask: --config.token_file=FILE changes that", flush=True)
    host, port = listening.getsockname()[:2]
    print(f"[serve] {config.policy} at ws://{host}:{port} and http://{host}:{port}/act", flush=True)
    if config.page.show:
        print(f"[serve] watch it drive {config.page.env}: http://{host}:{port}/", flush=True)
    server.run(served, listening)
    print("[serve] ended", flush=True)


if __name__ == "__main__":
    launch.run(main)
