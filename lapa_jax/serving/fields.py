"""Observations of all who connect -> the policy's own fields, checked before they share a batch with others."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.serving.failures import Failure

_WRIST = ("wrist_image", "image_wrist", "wrist")
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": ("instruction",),
    "task_description": ("instruction",),
    "observation/image": ("image",),
    "observation/exterior_image_1_left": ("image",),
    "images/cam_high": ("image",),
    "full_image": ("image",),
    "image_primary": ("image",),
    "observation/wrist_image": _WRIST,
    "observation/wrist_image_left": _WRIST,
    "wrist_image": _WRIST,
    "observation/state": ("proprio",),
    "state": ("proprio",),
    "last_latents": ("last_latents",),
}
"""Names of openpi's and OpenVLA's clients -> ours, the first that the policy has.

What the policy does not take is left out, such as the wrist camera of one that was trained without; a name that
stands neither here nor in the policy's metadata is an error.
"""
MAX_LETTERS = 4096
"""Of an instruction."""


class Fields:
    """Of one policy.

    Args:
        metadata: the policy's own.
        names: further names, see `options.Options.names`; they come before `ALIASES`.
        max_pixels: of an image.

    Raises:
        UserError: a name is given to something that the policy does not take.
    """

    def __init__(self, metadata: Mapping[str, Any], names: Mapping[str, str], max_pixels: int) -> None:
        self.cameras: Sequence[str] = tuple(metadata["cameras"])
        self.proprio_dim: int | None = metadata.get("proprio_dim")
        self.max_pixels, self._names = max_pixels, names
        optional = {"proprio": self.proprio_dim is not None, "last_latents": bool(metadata.get("history"))}
        self._takes = ("instruction", *self.cameras, *(name for name, taken in optional.items() if taken))
        for name, ours in names.items():
            if ours and ours not in self._takes:
                raise errors.UserError(f"names: {name}={ours}, but this policy takes {', '.join(self._takes)}")

    def of(self, message: Any, image: Callable[[Any], Any] = lambda value: value) -> dict[str, Any]:
        """The observation that a message holds, under our names.

        Args:
            message: a dict of arrays, text and numbers; maps inside it count as "outer/inner".
            image: what stands for an image -> an array.

        Returns:
            Every camera uint8[H, W, 3], `instruction` str, and where given `proprio` float32[P], `last_latents`
            int32[N] and `seed` int.

        Raises:
            Failure: "bad_observation", naming the field and what it should be.
        """
        if not isinstance(message, Mapping):
            raise _wrong(f"an observation is a map of {', '.join(self._takes)}, not {_kind(message)}")
        found: dict[str, Any] = {}
        for name, value in _flat(message):
            ours = self._ours(name)
            if ours in found:
                raise _wrong(f"{name!r} gives {ours!r} a second time")
            if ours:
                found[ours] = self._checked(ours, image(value) if ours in self.cameras else value)
        missing = [name for name in ("instruction", *self.cameras) if name not in found]
        if missing:
            raise _wrong(f"{missing[0]!r} is missing: this policy takes {', '.join(self._takes)}")
        return found

    def example(self, size: int, batch: int) -> dict[str, Any]:
        """`batch` black images and empty instructions, to warm up with."""
        made: dict[str, Any] = {name: np.zeros((batch, size, size, 3), np.uint8) for name in self.cameras}
        if self.proprio_dim is not None:
            made["proprio"] = np.zeros((batch, self.proprio_dim), np.float32)
        return {**made, "instruction": [""] * batch}

    def _ours(self, name: str) -> str:
        """Our name for theirs; empty where the policy takes no such thing."""
        if name in self._names:
            return self._names[name]
        if name in (*self._takes, "proprio", "seed"):
            return name
        if name in ALIASES:
            return next((ours for ours in ALIASES[name] if ours in self._takes), "")
        raise _wrong(f"{name!r:.80} is no field of this policy, which takes {', '.join(self._takes)}")

    def _checked(self, name: str, value: Any) -> Any:
        if name == "instruction":
            return _instruction(value)
        if name == "seed":
            return _seed(value)
        if name == "proprio":
            return self._proprio(value)
        if name == "last_latents":
            return _latents(value)
        return self._image(name, value)

    def _image(self, name: str, value: Any) -> np.ndarray:
        if not isinstance(value, np.ndarray):
            raise _wrong(f"{name} is {_kind(value)}: give an array uint8[H, W, 3]")
        if value.dtype != np.uint8 or value.ndim != 3 or value.shape[-1] != 3 or 0 in value.shape:
            why = " (channels come last)" if value.ndim == 3 and value.shape[0] == 3 != value.shape[-1] else ""
            raise _wrong(f"{name} is {_kind(value)}: give uint8[H, W, 3] RGB{why}")
        if value.shape[0] * value.shape[1] > self.max_pixels:
            raise _wrong(f"{name} is {_kind(value)}: give at most {self.max_pixels} pixels")
        return value

    def _proprio(self, value: Any) -> np.ndarray:
        if self.proprio_dim is None:
            raise _wrong("this policy was trained without proprio: leave it out")
        array = _array(value)
        if array.dtype.kind not in "iuf" or array.shape != (self.proprio_dim,):
            raise _wrong(f"proprio is {_kind(array)}: give {self.proprio_dim} numbers")
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise _wrong("proprio holds NaN or infinity")
        return array


def _flat(message: Mapping, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in message.items():
        if not isinstance(key, str):
            raise _wrong(f"{key!r:.80} is no name of a field: names are text")
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{key}/")
        else:
            found.append((prefix + key, value))
    return found


def _instruction(value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong(f"instruction is {_kind(value)}: give text")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise _wrong("instruction is not valid Unicode: it holds half a character")
    if len(value) > MAX_LETTERS:
        raise _wrong(f"instruction has {len(value)} characters, more than {MAX_LETTERS}")
    return value


def _latents(value: Any) -> np.ndarray:
    """How many there are, and of which codes, is for the policy to judge."""
    array = _array(value)
    if array.dtype.kind not in "iu" or array.ndim != 1 or array.size > 1024 or (abs(array) > 2**30).any():
        raise _wrong(f"last_latents is {_kind(array)}: give the latents of the last answer")
    return array.astype(np.int32)


def _array(value: Any) -> np.ndarray:
    """Of lists that differ in length one that is no number."""
    try:
        return np.asarray(value)
    except ValueError:
        return np.empty(0, object)


def _seed(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value < 2**32:
        raise _wrong(f"seed is {value!r:.40}: give a whole number from 0 to {2**32 - 1}")
    return int(value)


def _kind(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def _wrong(sentence: str) -> Failure:
    return Failure("bad_observation", sentence)
