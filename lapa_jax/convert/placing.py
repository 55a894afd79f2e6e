"""Leaves straight onto devices: each part is read, placed and let go before the next one."""

from collections.abc import Callable

import jax
import numpy as np


def spread(leaf: jax.ShapeDtypeStruct, read_part: Callable[[tuple[slice, ...]], np.ndarray]) -> jax.Array:
    """One leaf on the devices of this process; its parts are read one after the other, each once.

    Args:
        leaf: with a sharding; without, on the default device.
        read_part: slices of the whole, with open ends where an axis is not split -> that part, in the leaf's dtype.
    """
    shape = tuple(leaf.shape)
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    devices: dict[tuple, list[jax.Device]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        devices.setdefault(tuple((piece.start, piece.stop) for piece in index), []).append(device)
    parts = []
    for spans, holders in devices.items():
        values = read_part(tuple(slice(*span) for span in spans))
        # Waited for, else copies on their way to the devices add up to the whole file.
        parts += jax.block_until_ready([jax.device_put(values, device) for device in holders])
    return jax.make_array_from_single_device_arrays(shape, sharding, parts, dtype=leaf.dtype)


def finite(values: np.ndarray) -> bool:
    """Whether all are, looked at row by row so that no mask of the whole is made."""
    return all(np.isfinite(row).all() for row in (values if values.ndim > 1 else values[None]))
