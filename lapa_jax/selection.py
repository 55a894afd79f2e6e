"""Which parameters are trained: a tree cut in two by the paths of its leaves, and put together again."""

import dataclasses
import re
from collections.abc import Callable, Mapping
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
        chosen, rest = cut(params, self._trains)
        self._check(params)
        if not chosen:
            raise errors.UserError(
                f"optimizer.trainable={self.trainable!r} and frozen={self.frozen!r} leave nothing to train"
            )
        return chosen, rest

    def _check(self, params: Any) -> None:
        names = ["/".join(path) for path in flax.traverse_util.flatten_dict(params)]
        for key, pattern in dataclasses.asdict(self).items():
            if pattern and not any(re.search(pattern, name) for name in names):
                called = ", ".join(names[:3])
                raise errors.UserError(f"optimizer.{key}={pattern!r} matches no parameter, such as {called}")

    def _trains(self, name: str) -> bool:
        wanted = not self.trainable or re.search(self.trainable, name)
        return bool(wanted and not (self.frozen and re.search(self.frozen, name)))


def cut(tree: Any, wanted: Callable[[str], bool]) -> tuple[Any, Any]:
    """(leaves whose path is wanted, the rest) of nested dicts, each under its path."""
    flat = flax.traverse_util.flatten_dict(tree, keep_empty_nodes=True)
    chosen = {path: leaf for path, leaf in flat.items() if leaf is not EMPTY and wanted("/".join(path))}
    rest = {path: leaf for path, leaf in flat.items() if path not in chosen}
    return flax.traverse_util.unflatten_dict(chosen), flax.traverse_util.unflatten_dict(rest)


def replaced(tree: Any, leaves: Mapping[str, Any]) -> Any:
    """Nested dicts with other leaves at some '/'-joined paths."""
    if not leaves:
        return tree
    flat = flax.traverse_util.flatten_dict(tree, keep_empty_nodes=True, sep="/")
    if strange := leaves.keys() - flat.keys():
        raise KeyError(f"no {min(strange)} in the tree")
    return flax.traverse_util.unflatten_dict({**flat, **leaves}, sep="/")


def join(trained: Any, rest: Any) -> Any:
    """The tree that `cut` took apart, possibly with other leaves."""
    if not rest:
        return trained
    flat = [flax.traverse_util.flatten_dict(part, keep_empty_nodes=True) for part in (trained, rest)]
    return flax.traverse_util.unflatten_dict({**flat[0], **flat[1]})
