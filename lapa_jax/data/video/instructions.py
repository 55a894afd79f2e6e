"""Files that say what is done in which video: `instructions.jsonl`, or one JSON object."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lapa_jax import errors

_NAMES = ("instructions.jsonl", "instructions.json")


def find(directory: str | Path) -> Path | None:
    """The file of that folder, if it has one."""
    return next((path for name in _NAMES if (path := Path(directory, name)).is_file()), None)


def read(path: str | Path) -> dict[str, str]:
    """File name -> instruction.

    Reads lines {"file": ..., "instruction": ...} from a `.jsonl`, and {file: instruction, ...} or a list
    of such lines from a `.json`.

    Raises:
        UserError: the file is no UTF-8, no JSON, or of another shape; the message has its line.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return _collected(path, _json_lines(path))
    value = load_json(path)
    if isinstance(value, dict):
        return _collected(path, (("", {"file": k, "instruction": v}) for k, v in value.items()))
    if isinstance(value, list):
        return _collected(path, ((f", entry {i}", entry) for i, entry in enumerate(value)))
    raise errors.UserError(f"{path} holds a JSON {type(value).__name__}; make it an object of file: instruction")


def load_json(path: str | Path) -> Any:
    """Raises UserError with file and line when it is no UTF-8 or no JSON."""
    return _parsed(path, text(path), 1)


def text(path: str | Path) -> str:
    """The contents of a UTF-8 file. Raises UserError with its line when it is no UTF-8."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(f"{path} cannot be read ({error.strerror})") from error
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise errors.UserError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(text(path).split("\n"), 1):
        if line.strip():
            yield f", line {number}", _parsed(path, line, number)


def _parsed(path: str | Path, source: str, first_line: int) -> Any:
    try:
        return json.loads(source)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise errors.UserError(f"{path}, line {line}: no JSON ({error.msg}); correct it") from error
    except RecursionError as error:
        raise errors.UserError(f"{path}, line {first_line}: nested too deep; correct it") from error


def _collected(path: Path, entries: Iterator[tuple[str, Any]]) -> dict[str, str]:
    found = {}
    for where, entry in entries:
        file = entry.get("file") if isinstance(entry, dict) else None
        instruction = entry.get("instruction") if isinstance(entry, dict) else None
        if not isinstance(file, str) or not isinstance(instruction, str):
            raise errors.UserError(
                f'{path}{where}: {json.dumps(entry)[:80]} is not {{"file": "...", "instruction": "..."}}'
            )
        if found.setdefault(file, instruction) != instruction:
            raise errors.UserError(f"{path}{where}: {file} has two instructions; leave one")
    return found
