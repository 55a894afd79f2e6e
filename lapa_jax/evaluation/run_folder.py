"""What a run left on disk, read leniently: a stage that has not run yet reads as None."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from lapa_jax.errors import UserError

STAGES = ("laq", "vlm", "finetune", "scratch")


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """A run's files; dicts are keyed by stage and hold None (or no lines) for an absent stage."""

    path: Path
    run: dict[str, Any] | None
    summaries: dict[str, dict[str, Any] | None]
    configs: dict[str, dict[str, Any] | None]
    metrics: dict[str, list[dict[str, Any]]]
    gallery: dict[str, np.ndarray] | None
    rollouts: dict[str, Any] | None
    results: dict[str, Any] | None


def read(run_dir: str | os.PathLike) -> RunFolder:
    """Reads run.json, each stage's files, the LAQ gallery, latent rollouts and evaluation/results.json.

    Raises:
        UserError: the folder does not exist, or a file in it is not what its name says.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise UserError(f"no run folder at {path}: pass the folder that the run wrote")
    return RunFolder(
        path=path,
        run=_read_json(path / "run.json"),
        summaries={s: _read_json(path / s / "summary.json") for s in STAGES},
        configs={s: _read_json(path / s / "config.json") for s in STAGES},
        metrics={s: _read_lines(path / s / "metrics.jsonl") for s in STAGES},
        gallery=_read_arrays(path / "laq" / "gallery.npz"),
        rollouts=_read_json(path / "rollouts" / "rollouts.json"),
        results=_read_json(path / "evaluation" / "results.json"),
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not valid JSON ({error}): run that stage again") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object: run that stage again")
    return value


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines; a torn last line, as a run still writing leaves, is dropped."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                message = f"{path} line {number} is not JSON: run that stage again"
                raise UserError(message) from error
    return records


def _read_arrays(path: Path) -> dict[str, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except (ValueError, OSError) as error:
        raise UserError(f"{path} is not a readable .npz file: run stage laq again") from error
