"""A folder of Hugging Face, config.json and safetensors, to a `VisionTower` and its parameters.

Nothing is downloaded, and no file that could execute code is read. Every tensor is accounted for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes  # noqa: F401  (numpy knows bfloat16 from here on, which safetensors needs)
import numpy as np
import safetensors

from lapa_jax import errors
from lapa_jax.convert import vision_families
from lapa_jax.models import vision

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")


class Stored(NamedTuple):
    """A tensor on disk: the open file it is in, and what that file's header says about it."""

    file: Any
    shape: tuple[int, ...]
    dtype: str


class Part(NamedTuple):
    """A tensor, or the first or second half of one (0 or 1), as one part of a parameter."""

    key: str
    half: int | None


def load_tower(folder: str | Path, dtype: str = "float32") -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint of one of `vision_families.DEFAULTS` as (spec, params).

    Args:
        folder: where `hf download NAME --local-dir DIR` put config.json, the safetensors (one file or shards with
            their index) and preprocessor_config.json (without it the colours of the family hold).
        dtype: of the tower's computation; parameters are float32.

    Returns:
        spec: JSON values with which `vision.VisionTower(**spec).apply({"params": params}, image)` runs.
        params: tree of numpy arrays.

    Raises:
        UserError: a file is missing or damaged, the model is unknown, or the tensors are not those that
            config.json speaks of: one is missing, unexpected or of another shape.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        name = folder.as_posix()
        raise errors.UserError(
            f"no folder {name}: weights are read from disk; get them with `hf download {name} --local-dir DIR`, "
            "and give DIR"
        )
    spec = vision_families.spec_from_config(read_json(folder / "config.json")) | {"dtype": dtype}
    spec |= _colours(folder)
    return spec, load_params(spec, open_tensors(folder), folder)


def load_params(spec: Mapping[str, Any], stored: Mapping[str, Stored], folder: Path) -> dict[str, Any]:
    """The parameters of a tower from tensors on disk; shapes are compared before anything is read.

    Args:
        folder: what errors call the checkpoint.

    Raises:
        UserError: as `load_tower`.
    """
    parts = _sort(spec, stored, folder)
    params = {path: _assemble(path, of, stored, spec["width"]) for path, of in parts.items()}
    return flax.traverse_util.unflatten_dict(params, sep="/")


def _sort(spec: Mapping[str, Any], stored: Mapping[str, Stored], folder: Path) -> dict[str, dict[int | None, Part]]:
    """Path of each parameter -> its parts; all are there and of the right shape."""
    wanted = _wanted_shapes(spec)
    parts: dict[str, dict[int | None, Part]] = {path: {} for path, _ in wanted}
    for key, tensor in stored.items():
        if vision_families.unused(key, spec):
            continue
        found = list(vision_families.places(key))
        if not found or any((path, part) not in wanted for path, part, _ in found):
            raise errors.UserError(f"{folder}: {key} {tensor.shape} has no place in the model of config.json")
        for path, part, half in found:
            if part in parts[path]:
                raise errors.UserError(f"{folder} has both {parts[path][part].key} and {key}: one too many")
            parts[path][part] = Part(key, half)
            check_tensor(key, tensor, _their_shapes(path, part, wanted[path, part], half is not None), folder)
    missing = [(path, part) for path, part in wanted if part not in parts[path]]
    for path, part in missing:
        layer = f" of layer {part}" if path.startswith("layers/") else ""
        raise errors.UserError(
            f"{folder}: no tensor for {path} {wanted[path, part]}{layer}, which the model of config.json has "
            f"({len(missing)} missing)"
        )
    return parts


def _wanted_shapes(spec: Mapping[str, Any]) -> dict[tuple[str, int | None], tuple[int, ...]]:
    """(path, part) -> shape of that part in our layout, from the tower itself."""
    tower = vision.VisionTower(**spec)
    image = jax.ShapeDtypeStruct((1, spec["patch_size"], spec["patch_size"], 3), jnp.float32)
    params = jax.eval_shape(tower.init, jax.random.key(0), image)["params"]
    wanted = {}
    for path, leaf in flax.traverse_util.flatten_dict(params, sep="/").items():
        if path.startswith("layers/"):
            wanted |= {(path, layer): leaf.shape[1:] for layer in range(tower.depth)}
        elif path == "embed_prefix/embedding":
            lengths = enumerate((int(tower.class_token), tower.num_registers))
            wanted |= {(path, part): (length, tower.width) for part, length in lengths if length}
        else:
            wanted[path, None] = leaf.shape
    return wanted


def _their_shapes(path: str, part: int | None, shape: tuple[int, ...], halved: bool) -> list[tuple[int, ...]]:
    """Shapes that a tensor on disk may have to become ours."""
    if path == "patch_embed/kernel":
        side = int((shape[0] // 3) ** 0.5)
        return [(shape[1], 3, side, side), shape[::-1]]
    if path.endswith("/kernel"):
        shape = shape[::-1]
    if halved:
        shape = (2 * shape[0], *shape[1:])
    return [shape, (1, *shape), shape[1:]] if part == 0 and path.startswith("embed") else [shape, (1, *shape)]


def check_tensor(key: str, tensor: Stored, shapes: Sequence[tuple[int, ...]], folder: Path) -> None:
    """Compare what a file's header says of a tensor with the shapes that it may have; the first is named.

    Raises:
        UserError: it has none of them, or is no float.
    """
    if tensor.shape not in shapes:
        raise errors.UserError(f"{folder}: {key} has shape {tensor.shape}, by config.json it is {shapes[0]}")
    if tensor.dtype not in FLOATS:
        raise errors.UserError(f"{folder}: {key} is {tensor.dtype}; weights are read as {', '.join(FLOATS)}")


def _assemble(path: str, parts: Mapping[int | None, Part], stored: Mapping[str, Stored], width: int) -> np.ndarray:
    """One parameter, float32, from its parts in order."""
    arrays = [_relayout(path, _read(part, stored), width) for _, part in sorted(parts.items())]
    if path.startswith("layers/"):
        return np.stack(arrays)
    return np.concatenate(arrays) if path == "embed_prefix/embedding" else arrays[0]


def _read(part: Part, stored: Mapping[str, Stored]) -> np.ndarray:
    array = stored[part.key].file.get_tensor(part.key).astype(np.float32)
    if not np.isfinite(array).all():
        raise errors.UserError(f"{part.key} holds values that are not finite: the weights are damaged")
    return array if part.half is None else np.split(array, 2)[part.half]


def _relayout(path: str, array: np.ndarray, width: int) -> np.ndarray:
    if path == "patch_embed/kernel":  # (D, 3, row, column) -> [(row, column, 3), D]; or linear, in that order
        array = array.transpose(0, 2, 3, 1).reshape(width, -1) if array.ndim == 4 else array
    if path.endswith("/kernel"):
        return np.ascontiguousarray(array.T)
    return array.reshape(-1, width) if path.endswith("embedding") else array


def open_tensors(folder: Path) -> dict[str, Stored]:
    """Names of all tensors of a folder with their shapes; the tensors themselves are read on demand.

    Raises:
        UserError: no safetensors, a shard that is missing or damaged, or an index that names other tensors.
    """
    if (folder / INDEX).is_file():
        index = read_json(folder / INDEX).get("weight_map")
        if not isinstance(index, dict) or not all(isinstance(name, str) for name in index.values()):
            raise errors.UserError(f"{folder / INDEX} has no weight_map of names: download it again")
        stored = {}
        for name in sorted(set(index.values())):
            stored |= dict(_open_file(folder / Path(name).name))
        if absent := sorted(index.keys() ^ stored.keys()):
            raise errors.UserError(f"{folder / INDEX} and its shards disagree about {absent[0]}: download it again")
        return stored
    if not (folder / WEIGHTS).is_file():
        raise errors.UserError(
            f"{folder} has neither {WEIGHTS} nor {INDEX}; other formats are not read, as pickles can execute code"
        )
    return dict(_open_file(folder / WEIGHTS))


def _open_file(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.UserError(f"cannot read {path}: {error}; download it again") from error
    for key in file.keys():  # noqa: SIM118  (not a mapping)
        header = file.get_slice(key)
        yield key, Stored(file, tuple(header.get_shape()), header.get_dtype())


def _colours(folder: Path) -> dict[str, list[float]]:
    """mean and std of the folder's image processor, where there is one."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return {}
    config = read_json(path)
    if not config.get("do_rescale", True) or abs(config.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise errors.UserError(f"{path} does not scale pixels by 1/255: the vision tower reads images in [0, 1]")
    if not config.get("do_normalize", True):
        return dict(mean=[0.0] * 3, std=[1.0] * 3)
    found = {ours: config[f"image_{ours}"] for ours in ("mean", "std") if config.get(f"image_{ours}") is not None}
    for name, values in found.items():
        numbers = isinstance(values, list) and all(isinstance(value, (int, float)) for value in values)
        if not numbers or len(values) != 3 or (name == "std" and min(values) <= 0):
            raise errors.UserError(f"{path} has image_{name}={values}: it takes three numbers, a std above 0")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise errors.UserError(f"no {path}: not a folder of Hugging Face") from error
    except ValueError as error:
        raise errors.UserError(f"{path} is no JSON: {error}; download it again") from error
    if not isinstance(content, dict):
        raise errors.UserError(f"{path} holds no JSON object; download it again")
    return content
