"""A small tabletop with coloured blocks to push, instructed in words (PyBullet, no GPU, no GL).

Light to import: pybullet and gymnasium (the extra `[tabletop]`) are loaded by `make`.
"""

import importlib
from types import ModuleType
from typing import Any

from lapa_jax.errors import UserError


def make(**kwargs: Any) -> Any:
    """Builds a `TabletopEnv` (arguments: see `env.py`); raises UserError without the extra."""
    from lapa_jax.envs.tabletop import env

    return env.TabletopEnv(**kwargs)


def require(package: str) -> ModuleType:
    """Imports `package`, or raises a UserError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the tabletop environment needs {package}: run `pip install -e .[tabletop]`"
        ) from error
