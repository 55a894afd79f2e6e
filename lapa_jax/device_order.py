"""Which device goes where in a mesh: neighbours in the network are neighbours in the mesh.

Slices of TPUs, and hosts of GPUs, have a fast network inside and a slow one between them. `data` and `fsdp` may go
over the slow one; `tensor` and `sequence` talk several times a layer, and wait for it, so they stay inside.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.experimental import mesh_utils

from lapa_jax import errors

OUTER = ("data", "fsdp")
"""Axes that may go over slices; the first does where it can."""
INNER = ("sequence", "tensor")
"""Axes that stay in a slice; the last is given the nearest neighbours."""


def arrange(sizes: Mapping[str, int], devices: Sequence[Any]) -> np.ndarray:
    """Devices in their places in a mesh: by the torus of a TPU slice, elsewhere as they come.

    Args:
        sizes: devices along each axis of OUTER and INNER, which multiply to their number.
        devices: of `jax.devices()`, or described ones of `jax.experimental.topologies`.

    Returns:
        object[sizes], axes in the order of `sizes`.

    Raises:
        UserError: `tensor` or `sequence` would go over slices, or these have different numbers of devices.
    """
    order = (*OUTER, *INNER)  # create_device_mesh wants the axis that talks most last
    over = _over_slices(sizes, collections.Counter(map(slice_of, devices)))
    inside = [sizes[name] // over.get(name, 1) for name in order]
    if over:
        by_process = not hasattr(devices[0], "slice_index")
        made = mesh_utils.create_hybrid_device_mesh(
            inside, [over.get(name, 1) for name in order], devices,
            process_is_granule=by_process, allow_split_physical_axes=True,
        )
    else:
        made = mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)
    return made.transpose([order.index(name) for name in sizes])


def slice_of(device: Any) -> int:
    """The slice that a device says it is in; a GPU that does not say is with those of its process."""
    if device.platform == "cpu":
        return 0
    return getattr(device, "slice_index", device.process_index if device.platform == "gpu" else 0)


def _over_slices(sizes: Mapping[str, int], slices: Mapping[int, int]) -> dict[str, int]:
    """Slices along each axis of OUTER; nothing where there is one slice."""
    if len(slices) == 1:
        return {}
    if len(set(slices.values())) > 1:
        raise errors.UserError(f"slices of {sorted(slices.values())} devices: a mesh takes as many from each")
    first = math.gcd(sizes["data"], len(slices))
    left = len(slices) // first
    if sizes["fsdp"] % left:
        axes, count = " ".join(f"{name}={size}" for name, size in sizes.items()), len(slices)
        raise errors.UserError(
            f"mesh {axes} over {count} slices (or hosts) of {next(iter(slices.values()))} devices: tensor and "
            f"sequence would go over the slow network; set --config.mesh so that data*fsdp is a multiple of {count}"
        )
    return {"data": first, "fsdp": left}
