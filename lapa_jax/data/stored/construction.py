"""A dataset folder while it is written, by one process or many, and after a kill.

`unfinished/` in it holds the plan that claimed the folder and a note of each part that is done. When all
parts are there the folder gets `lapa.json`, with the plan, and `unfinished/` goes.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lapa_jax import errors
from lapa_jax.data.stored import storage

_UNFINISHED = "unfinished"


class Construction:
    """One folder and the plan for it: all that its contents follow from, as JSON can hold it."""

    def __init__(self, folder: Path, plan: Mapping[str, Any]):
        self.folder = folder
        self.plan = json.loads(json.dumps(plan))

    @property
    def finished(self) -> bool:
        return (self.folder / storage.READY).exists()

    def claim(self) -> None:
        """Raises UserError when the folder is another plan's, or somebody else's."""
        plan = self.folder / _UNFINISHED / "plan.json"
        if not self.finished and not plan.exists():
            if self.folder.exists() and any(p.name != _UNFINISHED for p in self.folder.iterdir()):
                raise errors.UserError(f"{self.folder} is there and was not built here; choose another folder")
            storage.make_folder(plan.parent)
            storage.write_json(plan, self.plan)
        # Read back: of two that start together, one sees the other's.
        self._check_same(self.folder / storage.READY if self.finished else plan)

    def is_done(self, part: str) -> bool:
        return self.finished or self._note(part).exists()

    def done(self, part: str, note: Mapping[str, Any]) -> None:
        """Notes that the files of a part are there."""
        storage.write_json(self._note(part), note)

    def notes(self, parts: Sequence[str]) -> list[dict[str, Any]] | None:
        """What was noted of each part; None when another process has finished the folder."""
        try:
            return [json.loads(self._note(part).read_text(encoding="utf-8")) for part in parts]
        except FileNotFoundError:
            if self.finished:
                return None
            raise

    def clear(self) -> None:
        """Removes what only the construction needed."""
        for partial in self.folder.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        shutil.rmtree(self.folder / _UNFINISHED, ignore_errors=True)

    def _note(self, part: str) -> Path:
        return self.folder / _UNFINISHED / f"{part}.json"

    def _check_same(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            found = _flat(found["plan"] if path.name == storage.READY else found)
        except FileNotFoundError:  # another process finished it just now
            return self._check_same(self.folder / storage.READY)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise errors.UserError(f"{path} was not written by this program; choose another folder") from error
        plan = _flat(self.plan)
        for key in [*plan, *found]:
            if plan.get(key) != found.get(key):
                raise errors.UserError(
                    f"{self.folder} was begun with {key} {found.get(key)!r}, not {plan.get(key)!r}; "
                    "choose another folder or remove it"
                )


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, inner in value.items():
        flat.update(_flat(inner, f"{prefix}{key}.") if isinstance(inner, dict) else {f"{prefix}{key}": inner})
    return flat
