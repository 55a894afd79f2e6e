"""Which change of a config makes it fit: candidates in order of what they cost, compiled before they are named."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import action_parts

from lapa_jax.planning.memory import Memory
from lapa_jax.planning.plan import Plan
from lapa_jax.planning.topologies import Topology

MOST_PARTS = 64


def candidates(config: Any, memory: Memory, room: float) -> Iterator[dict[str, Any]]:
    """Dotted keys and values that need less memory, the cheapest first, each with those before it.

    A step computes again, then is cut in parts; only then is the state made smaller: shared out, at fewer bits.
    What changes activations alone is left out where the state alone does not fit.

    Args:
        memory: of the config as it is.
        room: bytes that there are.
    """
    chosen: dict[str, Any] = {}
    state_fits = memory.state < room
    if config.mesh.data > 1 and config.mesh.fsdp != -1:
        chosen |= {"mesh.data": 1, "mesh.fsdp": config.mesh.data * config.mesh.fsdp}
        yield dict(chosen)
    chosen |= _recompute(config)
    if state_fits and chosen:
        yield dict(chosen)
    if state_fits:
        parts = config.accumulate * 2
        while parts <= min(MOST_PARTS, config.batch_size) and config.batch_size % parts == 0:
            yield chosen | {"accumulate": parts}
            parts *= 2
    for key, values in _fewer_bits(config).items():
        section, _, name = key.rpartition(".")
        own = config[section][name] if section else config[name]
        for value in values[values.index(own) + 1 if own in values else 0 :]:
            chosen |= {key: value}
            yield dict(chosen)


def _fewer_bits(config: Any) -> dict[str, tuple[str, ...]]:
    """Dotted key -> values, what is not trained first: nothing is lost there."""
    chosen = action_parts.optimizer(config) if "tune" in config else config.optimizer
    frozen = {"frozen_dtype": ("bfloat16",)} if chosen["trainable"] or chosen["frozen"] else {}
    return frozen | {"optimizer.moments": ("bfloat16", "float8"), "param_dtype": ("bfloat16",)}


def _recompute(config: Any) -> dict[str, Any]:
    model = config.get("model") or {}
    if "remat" in model and model.remat != "full":
        return {"model.remat": "full"}
    if "backbone_args" in model and model.backbone_args.get("remat") is False:
        return {"model.backbone_args.remat": True}
    return {}


def search(
    config: Any, memory: Memory, topology: Topology, reserve: float, plan: Callable[[Any], Plan]
) -> Mapping[str, Any] | None:
    """The first change with which `plan` fits; None where none does."""
    room = (1 - reserve) * topology.chip.memory
    for changes in candidates(config, memory, room):
        changed = config.copy_and_resolve_references()
        changed.update_from_flattened_dict(changes)
        try:
            found = plan(changed)
        except ValueError:  # a batch that does not divide
            continue
        if found.fits(topology, reserve):
            return changes
    return None
