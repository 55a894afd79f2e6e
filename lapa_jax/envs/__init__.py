"""Environments by name; a name's module is imported only when it is made."""

import importlib
from typing import Any

from lapa_jax.errors import UserError

MODULES = {
    "tabletop": "lapa_jax.envs.tabletop",
    "language_table": "lapa_jax.envs.language_table",
    "libero": "lapa_jax.envs.libero",
}


def expert(name: str) -> Any:
    """The scripted expert of environment `name`: `.action(env, rng) -> float32[A]`, without noise.

    Raises UserError as `make` does.
    """
    _check(name)
    return importlib.import_module(f"{MODULES[name]}.expert").Expert(noise=0.0)


def make(name: str, **kwargs: Any) -> Any:
    """Builds the gymnasium environment `name`; `kwargs` go to the `make` of its module.

    Raises UserError for an unknown name, or when the environment's optional packages are missing.
    """
    _check(name)
    return importlib.import_module(MODULES[name]).make(**kwargs)


def _check(name: str) -> None:
    if name not in MODULES:
        raise UserError(f"unknown environment {name!r}: choose one of {', '.join(sorted(MODULES))}")
