"""Frozen image encoders by the path of their weights, whatever their form."""

import os
from pathlib import Path
from typing import Any

from lapa_jax import errors
from lapa_jax.convert import hugging_face, imagebind

TORCH = (".pth", ".pt")
"""How files of torch.save are called."""


def load_tower(path: str | os.PathLike, dtype: str = "float32") -> tuple[dict[str, Any], dict[str, Any]]:
    """A checkpoint on disk as (spec, params) of a `vision.VisionTower`.

    Args:
        path: a folder of Hugging Face (see `hugging_face.load_tower`), or ImageBind's file.
        dtype: of the tower's computation; parameters are float32.

    Raises:
        UserError: there is neither at `path` (says what is there), or it is damaged.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        _check_folder(path)
    elif path.suffix in TORCH or path.is_file():
        _check_file(path)
        return imagebind.load(path, dtype)
    return hugging_face.load_tower(path, dtype)


def _check_folder(path: Path) -> None:
    """Names two folders that are often given instead."""
    if (path / "checkpoints").is_dir():
        raise errors.UserError(
            f"{path} is the folder of a run: a tower is one of Hugging Face, or ImageBind's file"
        )
    files = sorted(file for file in path.iterdir() if file.suffix in TORCH)
    if files and not (path / "config.json").exists():
        raise errors.UserError(f"{path} is no folder of Hugging Face: if it is ImageBind, give the file {files[0]}")


def _check_file(path: Path) -> None:
    if path.suffix in (".safetensors", ".json"):
        raise errors.UserError(f"{path} is one file of a checkpoint: give its folder, {path.parent}")
    if not path.exists():
        raise errors.UserError(f"no file {path}: weights are read from disk; download ImageBind first")
