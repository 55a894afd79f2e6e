"""Policies by where they are: the folder of a finetune run, or the address of a server."""

import contextlib
import os
from typing import Any

from lapa_jax import checkpoints, errors
from lapa_jax.policy import Policy

ADDRESSES = ("ws://", "wss://")
TOKEN = "LAPA_TOKEN"
"""Environment variable with the token of a server that wants one; a config would write it to disk."""


def is_address(where: str) -> bool:
    return where.startswith(ADDRESSES)


def origin(where: str) -> str:
    """What results of a policy depend on: a checkpoint and when it was written, or the hash that a server tells.

    Raises:
        UserError: a folder without a checkpoint, or no server there.
    """
    if is_address(where):
        with contextlib.closing(open_policy(where)) as client:
            return f"checkpoint {client.metadata['checkpoint']}"
    folder = checkpoints.resolve(where)
    return f"{folder} of {(folder / 'state').stat().st_mtime_ns}"


def open_policy(where: str) -> Any:
    """A `Policy`, or a client of a server that answers as one does; the latter wants to be closed.

    Raises:
        UserError: nothing there, or the client package is missing.
    """
    if not is_address(where):
        return Policy.from_checkpoint(where)
    try:
        from lapa_client import Client
    except ImportError as error:
        raise errors.UserError(f"{where} needs the client package: run `pip install ./client`") from error
    try:
        return Client(where, token=os.environ.get(TOKEN))
    except OSError as error:
        raise errors.UserError(f"no policy server at {where} ({error}): start one with serve.py") from error


def named(pairs: str | None) -> dict[str, str]:
    """`NAME=WHERE,NAME=WHERE` -> {name: where}.

    Raises:
        UserError: it is something else.
    """
    found: dict[str, str] = {}
    for pair in (pairs or "").split(",") if pairs else ():
        name, equals, where = pair.strip().partition("=")
        if not (name.isidentifier() and equals and where) or name in found:
            raise errors.UserError(f"others={pairs!r}: give NAME=FOLDER,NAME=ws://HOST:PORT with different names")
        found[name] = where
    return found
