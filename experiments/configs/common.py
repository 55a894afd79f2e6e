"""What the configs of all stages have in common."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lapa_jax import errors


def get_common() -> ConfigDict:
    """Keys every program reads; each stage overrides what it needs."""
    config = ConfigDict()
    config.seed = 0  # of initialisation, noise and the order of the data
    config.batch_size = 64  # global; divisible by data*fsdp
    config.num_steps = 1000  # updates
    config.log_every = 50  # steps between lines on the console and in metrics.jsonl
    config.mesh = dict(data=1, fsdp=-1, tensor=1)  # -1: the devices left over
    config.distributed = dict(  # jax.distributed.initialize; cluster environments need only enabled
        enabled=False,
        coordinator=placeholder(str),
        num_processes=placeholder(int),
        process_id=placeholder(int),
    )
    config.checkpoint = dict(every=500, keep_last=2)  # steps; how many recent ones stay
    return config


def resize(config: ConfigDict, size: str, sizes: dict[str, dict[str, Any]]) -> ConfigDict:
    """`config` with the overrides of a named size merged in."""
    if size not in sizes:
        raise errors.UserError(f"no size {size!r}; choose one of: {', '.join(sizes)}")
    config.update(sizes[size])
    return config
