"""A small tabletop with coloured blocks to push, instructed in words (PyBullet, no GPU, no GL).

Light to import: pybullet and gymnasium (the extra `[tabletop]`) are loaded by `make`.
"""

from typing import Any


def make(**kwargs: Any) -> Any:
    """Builds a `TabletopEnv` (arguments: see `env.py`); raises UserError without the extra."""
    from lapa_jax.envs.tabletop import env

    return env.TabletopEnv(**kwargs)
