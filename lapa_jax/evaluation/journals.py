"""Finished episodes of one policy, a line each as they end, so that an interrupted evaluation goes on."""

import dataclasses
import json
import logging
import pathlib
from types import TracebackType
from typing import Any

from lapa_jax import errors
from lapa_jax.evaluation.filming import Episode

_TYPES = {"family": str, "seed": int, "instruction": str, "success": bool, "length": int, "seconds": float}


class Journal:
    """A JSONL file; its first line says whose episodes these are. A context manager.

    Args:
        path: the file, which need not be there.
        source: what the results depend on. Of another source the episodes are dropped, and said so.

    Attributes:
        episodes: (family, seed) -> episode.

    Raises:
        UserError: a line before the last is damaged. The last one, as a kill leaves it, is dropped with a warning.
    """

    def __init__(self, path: pathlib.Path, source: str) -> None:
        self.episodes: dict[tuple[str, int], Episode] = {}
        lines, torn = _read(path)
        if torn:
            logging.warning("%s: its last line is damaged and dropped; that episode is played again", path)
        if lines and lines[0].get("source") != source:
            logging.warning("%s: its %d episodes are of another policy; it begins anew", path, len(lines) - 1)
            lines = []
        for line in lines[1:]:
            self._keep(Episode(**line))
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, [{"source": source}, *lines[1:]])
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._file.close()

    def add(self, episode: Episode) -> None:
        """Writes a finished episode; from here on it survives a kill."""
        self._keep(episode)
        self._file.write(_line(dataclasses.asdict(episode)))
        self._file.flush()

    def _keep(self, episode: Episode) -> None:
        self.episodes[episode.family, episode.seed] = episode


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


def _write(path: pathlib.Path, lines: list[dict[str, Any]]) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text("".join(map(_line, lines)), encoding="utf-8")
    unfinished.replace(path)


def _read(path: pathlib.Path) -> tuple[list[dict[str, Any]], bool]:
    """The lines of the file, and whether the last one was damaged."""
    data = path.read_bytes() if path.exists() else b""
    *whole, rest = data.split(b"\n")
    found: list[dict[str, Any]] = []
    for number, line in enumerate(whole, start=1):
        value = _parsed(line, header=number == 1)
        if value is None and (number < len(whole) or rest):
            raise errors.UserError(f"{path}: line {number} is damaged; remove it, or the file to begin anew")
        if value is None:
            return found, True
        found.append(value)
    return found, bool(rest)


def _parsed(line: bytes, header: bool) -> dict[str, Any] | None:
    """A line of the file; None where it is none."""
    try:
        value = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    if header:
        return value if isinstance(value.get("source"), str) else None
    sound = value.keys() == {*_TYPES, "film"} and all(type(value[key]) is kind for key, kind in _TYPES.items())
    return value if sound and isinstance(value["film"], str | None) else None
