"""Names of the official language model (LAPA, LWM) and of our parameters: one table serves both directions.

Layouts agree: kernels are [in, out] and layers the leading axis. Files of `scan_layers=False` have every layer by
itself, under its number.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lapa_jax import errors

LAYER = "transformer/h/#/"
SCANNED = "scan_decoder"
"""What stands for `#` where one leaf has all layers; else it is the number of one."""


def _vocabulary(table: str, head: str, ours: str) -> dict[str, str]:
    return {f"transformer/{table}/embedding": f"embed_{ours}/embedding", f"{head}/kernel": f"head_{ours}/kernel"}


def _layer(part: str, *names: str) -> dict[str, str]:
    return {f"{LAYER}{part}/{name}/kernel": f"body/layers/{part}/{name}/kernel" for name in names}


TREE = {
    **_vocabulary("wte", "lm_head", "text"),
    **_vocabulary("vte", "vision_head", "vision"),
    **_vocabulary("dte", "delta_head", "latent"),
    **_vocabulary("ate", "action_head", "action"),
    **_layer("attention", "wq", "wk", "wv", "wo"),
    **_layer("feed_forward", "w1", "w2", "w3"),
    f"{LAYER}attention_norm/kernel": "body/layers/attention_norm/scale",
    f"{LAYER}ffn_norm/kernel": "body/layers/ffn_norm/scale",
    "transformer/ln_f/kernel": "body/final_norm/scale",
}
"""Official key -> our '/'-joined path."""

OFFICIAL = {path: key for key, path in TREE.items()}


def from_official(leaves: Mapping[str, Any], stack: Callable[[Sequence[Any]], Any]) -> dict[str, Any]:
    """Our paths and their leaves; layers that are stored one by one go through `stack`.

    Raises:
        UserError: a key is unknown, or a layer is missing or there in both ways.
    """
    whole: dict[str, Any] = {}
    layers: dict[str, dict[int, Any]] = {}
    for key, leaf in leaves.items():
        path, layer = rename(key)
        if layer is None:
            whole[path] = leaf
        else:
            layers.setdefault(path, {})[layer] = leaf
    depth = max((len(found) for found in layers.values()), default=0)
    for path, found in layers.items():
        if path in whole or sorted(found) != list(range(depth)):
            raise errors.UserError(
                f"{OFFICIAL[path]} is there for layers {_in_short(sorted(found))} of {depth}"
                f"{' and for all at once' if path in whole else ''}: no checkpoint of LAPA or LWM"
            )
        whole[path] = stack([found[layer] for layer in range(depth)])
    return whole


def to_official(params: Mapping[str, Any], unstack: Callable[[Any], Sequence[Any]] | None = None) -> dict[str, Any]:
    """The inverse: official keys, in the order in which tux writes them, and their leaves.

    Args:
        params: by '/'-joined path.
        unstack: cuts the leaf of all layers into those of each, for files of `scan_layers=False`.

    Raises:
        UserError: a path has no place in the official tree (a conv stem, say).
    """
    found: dict[str, Any] = {}
    for path, leaf in params.items():
        if path not in OFFICIAL:
            raise errors.UserError(f"parameter {path} has no place in the official model, which has no such part")
        key = OFFICIAL[path]
        if unstack is None or not key.startswith(LAYER):
            found[key.replace("#", SCANNED)] = leaf
        else:
            found |= {key.replace("#", str(i)): part for i, part in enumerate(unstack(leaf))}
    return {key: found[key] for key in sorted(found, key=lambda key: key.split("/"))}


def rename(key: str) -> tuple[str, int | None]:
    """Our path for an official key, and the number of the layer where it is of one.

    Raises:
        UserError: the key is unknown.
    """
    number = re.match(rf"{LAYER[:-2]}(\d{{1,4}}|{SCANNED})/", key)
    pattern = LAYER + key[number.end() :] if number else key
    if pattern not in TREE or "#" in key:
        raise errors.UserError(f"unknown leaf {key}: not of the language model of LAPA or LWM")
    return TREE[pattern], int(number[1]) if number and number[1] != SCANNED else None


def _in_short(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:4])) + (f", ... {numbers[-1]}" if len(numbers) > 4 else "")
