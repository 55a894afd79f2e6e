"""LPIPS (Zhang et al. 2018, version 0.1, AlexNet): a distance of images that follows human judgement."""

import pathlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors

# Index in torchvision's AlexNet.features -> stride, padding, max pooling before it, shape of the kernel.
_LAYERS = {
    0: (4, 2, False, (64, 3, 11, 11)),
    3: (1, 2, True, (192, 64, 5, 5)),
    6: (1, 1, True, (384, 192, 3, 3)),
    8: (1, 1, False, (256, 384, 3, 3)),
    10: (1, 1, False, (256, 256, 3, 3)),
}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of images in [-1, 1]
_SMALLEST = 31  # pixels; the second pooling needs them


class Lpips:
    """Distances of float32[N, H, W, 3] images in [0, 1]: float64[N], 0 for the same image."""

    def __init__(self, weights: Mapping[str, np.ndarray]):
        """Weights by the names of torchvision and of the lpips package; see `load`."""
        self.weights = {name: jnp.asarray(value, jnp.float32) for name, value in weights.items()}
        self._distance = jax.jit(_distance)

    def __call__(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        if min(a.shape[1:3]) < _SMALLEST:
            raise errors.UserError(
                f"LPIPS needs images of {_SMALLEST} pixels, got {a.shape[1]}x{a.shape[2]}; drop --config.lpips"
            )
        return np.asarray(self._distance(self.weights, a, b), np.float64)


def load(path: str) -> Lpips:
    """From an .npz that holds `features.N.weight` and `features.N.bias` (N = 0, 3, 6, 8, 10) of torchvision's
    AlexNet, and `linN.model.1.weight` (N = 0..4) of the lpips package.

    Raises:
        UserError: no such file, or it does not hold these arrays in their shapes.
    """
    if not pathlib.Path(path).is_file():
        raise errors.UserError(f"no LPIPS weights at {path}; docs/judging.md says how to make the file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = dict(archive)
    except (ValueError, OSError) as error:
        raise errors.UserError(f"{path} is not a readable .npz; docs/judging.md says how to make it") from error
    for name, shape in shapes().items():
        have = found[name].shape if name in found else "nothing"
        if have != shape:
            raise errors.UserError(f"{path} has {have} for {name} and LPIPS needs {shape}; see docs/judging.md")
    return Lpips({name: found[name] for name in shapes()})


def shapes() -> dict[str, tuple[int, ...]]:
    """Name -> shape of every weight."""
    found = {}
    for i, (n, (_, _, _, kernel)) in enumerate(_LAYERS.items()):
        found |= {f"features.{n}.weight": kernel, f"features.{n}.bias": kernel[:1]}
        found[f"lin{i}.model.1.weight"] = (1, kernel[0], 1, 1)
    return found


def _distance(weights: Mapping[str, jax.Array], a: jax.Array, b: jax.Array) -> jax.Array:
    total = 0.0
    for i, (x, y) in enumerate(zip(_features(weights, a), _features(weights, b), strict=True)):
        linear = weights[f"lin{i}.model.1.weight"][0, :, 0, 0]
        total += jnp.mean(jnp.square(_unit(x) - _unit(y)) @ linear, axis=(1, 2))
    return total


def _features(weights: Mapping[str, jax.Array], x: jax.Array) -> list[jax.Array]:
    """float32[N, h, w, C] after each of the five convolutions."""
    x, found = (2.0 * x - 1.0 - jnp.array(_SHIFT)) / jnp.array(_SCALE), []
    for n, (stride, padding, pooled, _) in _LAYERS.items():
        if pooled:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        kernel, pad = weights[f"features.{n}.weight"], ((padding, padding),) * 2
        x = jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), pad, dimension_numbers=("NHWC", "OIHW", "NHWC")
        )
        x = jax.nn.relu(x + weights[f"features.{n}.bias"])
        found.append(x)
    return found


def _unit(x: jax.Array) -> jax.Array:
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-10)
