"""Environments by name; a name's module is imported only when it is made."""

import importlib
from typing import Any

from lapa_jax.errors import UserError

MODULES = {"tabletop": "lapa_jax.envs.tabletop"}


def make(name: str, **kwargs: Any) -> Any:
    """Builds the gymnasium environment `name`; `kwargs` go to the `make` of its module.

    Raises UserError for an unknown name, or when the environment's optional packages are missing.
    """
    if name not in MODULES:
        raise UserError(f"unknown environment {name!r}: choose one of {', '.join(sorted(MODULES))}")
    return importlib.import_module(MODULES[name]).make(**kwargs)
