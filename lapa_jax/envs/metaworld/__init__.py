"""MetaWorld (by others; MuJoCo, the extra `[metaworld]`): a simulated Sawyer arm, here instructed in words.

Light to import: gymnasium, metaworld and mujoco are loaded by `make` and later.
"""

from typing import Any


def make(**kwargs: Any) -> Any:
    """Builds a `MetaworldEnv` (arguments: see `env.py`); raises UserError without the extra."""
    from lapa_jax.envs.metaworld import env

    return env.MetaworldEnv(**kwargs)
