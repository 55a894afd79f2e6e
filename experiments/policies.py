"""Policies by where they are: the folder of a finetune run, or the address of a server."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import served

from lapa_jax import errors
from lapa_jax.policy import Policy, digest

ADDRESSES = ("ws://", "wss://")
TOKEN = "LAPA_TOKEN"
"""Environment variable with the token of a server that wants one; a config would write it to disk."""


def is_address(where: str) -> bool:
    return where.startswith(ADDRESSES)


@contextlib.contextmanager
def opened(where: str, source: str | None = None) -> Iterator[Any]:
    """A `Policy`, or a `served.Served` that answers as one does and is closed at the end.

    Args:
        source: its `origin` as it was found before; None: any.

    Raises:
        UserError: nothing there, or another checkpoint by now; or the client package is missing.
    """
    with contextlib.ExitStack() as stack:
        if is_address(where):
            policy = stack.enter_context(contextlib.closing(served.Served(where, os.environ.get(TOKEN))))
        else:
            policy = Policy.from_checkpoint(where)
        if source not in (None, source_of(policy)):
            raise errors.UserError(f"{where} has another checkpoint than when this began: run it again")
        yield policy


def origin(where: str) -> str:
    """What results of a policy depend on: the hash of its checkpoint, by whatever way it is reached.

    Raises:
        UserError: a folder without a checkpoint, or no server there.
    """
    if not is_address(where):
        return f"checkpoint {digest(where)}"
    with opened(where) as policy:
        return source_of(policy)


def source_of(policy: Any) -> str:
    """`origin` of an open policy."""
    return f"checkpoint {policy.metadata['checkpoint']}"


def named(pairs: str | None) -> dict[str, str]:
    """`NAME=WHERE,NAME=WHERE` -> {name: where}.

    Raises:
        UserError: it is something else.
    """
    found: dict[str, str] = {}
    for pair in pairs.split(",") if pairs else ():
        name, equals, where = pair.strip().partition("=")
        if not (name.isidentifier() and equals and where) or name in found:
            raise errors.UserError(f"others={pairs!r}: give NAME=FOLDER,NAME=ws://HOST:PORT with different names")
        found[name] = where
    return found
