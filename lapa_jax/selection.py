"""Which parameters are trained: a tree cut in two by the paths of its leaves, and put together again."""

import dataclasses
import re
from typing import Any

import flax.traverse_util

from lapa_jax import errors

EMPTY = flax.traverse_util.empty_node


@dataclasses.dataclass(frozen=True)
class Selection:
    """Regular expressions, searched in '/'-joined paths; an empty one says nothing.

    Attributes:
        trainable: only what matches is trained.
        frozen: what matches is not trained.
    """

    trainable: str = ""
    frozen: str = ""

    def split(self, params: Any) -> tuple[Any, Any]:
        """(what is trained, the rest): nested dicts with the paths of `params` and only those leaves.

        Without expressions the first is `params` itself, which may then be any tree.

        Raises:
            UserError: an expression matches nothing, or nothing is left to train.
        """
        if not (self.trainable or self.frozen):
            return params, {}
        flat = flax.traverse_util.flatten_dict(params, keep_empty_nodes=True)
        leaves = {path: "/".join(path) for path, leaf in flat.items() if leaf is not EMPTY}
        self._check(list(leaves.values()))
        chosen = {path: flat[path] for path, name in leaves.items() if self._trains(name)}
        if not chosen:
            raise errors.UserError(
                f"optimizer.trainable={self.trainable!r} and frozen={self.frozen!r} leave nothing to train"
            )
        rest = {path: leaf for path, leaf in flat.items() if path not in chosen}
        return flax.traverse_util.unflatten_dict(chosen), flax.traverse_util.unflatten_dict(rest)

    def _check(self, names: list[str]) -> None:
        for key, pattern in dataclasses.asdict(self).items():
            if pattern and not any(re.search(pattern, name) for name in names):
                called = ", ".join(names[:3])
                raise errors.UserError(f"optimizer.{key}={pattern!r} matches no parameter, such as {called}")

    def _trains(self, name: str) -> bool:
        wanted = not self.trainable or re.search(self.trainable, name)
        return bool(wanted and not (self.frozen and re.search(self.frozen, name)))


def join(trained: Any, rest: Any) -> Any:
    """The tree that `Selection.split` took apart, possibly with other leaves."""
    if not rest:
        return trained
    flat = [flax.traverse_util.flatten_dict(part, keep_empty_nodes=True) for part in (trained, rest)]
    return flax.traverse_util.unflatten_dict({**flat[0], **flat[1]})
