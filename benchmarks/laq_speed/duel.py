"""The contestants of this benchmark, and that they are the same network."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors
from race.contestants import Contestant

CLASSES = {
    "ours": "laq_speed.ours.Ours",
    "eager": "laq_speed.theirs.Eager",
    "compiled": "laq_speed.theirs.Compiled",
}
TASKS = ("train", "label")
BASELINE = "eager"
_STEPS = 3
_TOLERANCE = np.array([1e-4, 1e-3])  # of losses and gradient norms; sums of 3e8 float32 squares differ more


def kinds(names: list[str]) -> dict[str, str]:
    """The classes of these, the baseline first: it writes the weights."""
    return {name: CLASSES[name] for name in sorted(names, key=lambda name: name != BASELINE)}


def check(competing: Mapping[str, Contestant]) -> dict[str, Any]:
    """That all give the codes of ours, and its losses and gradient norms over training steps.

    Returns:
        How many codes occur, and name -> largest relative difference of loss and of gradient norm.

    Raises:
        UserError: they differ.
    """
    ours = competing["ours"]
    codes, noise = ours("codes"), ours("noise", _STEPS)
    losses = np.array(ours("losses", _STEPS))
    found: dict[str, Any] = {"codes": len(np.unique(codes))}
    for name in competing.keys() - {"ours"}:
        share = np.mean(codes != competing[name]("codes"))
        if share:
            raise errors.UserError(f"{share:.1%} of the codes of {name} are not those of ours: no comparison")
        others = np.array(competing[name]("losses", noise))
        apart = np.max(np.abs(others / losses - 1), axis=0)
        if not np.all(apart < _TOLERANCE):
            raise errors.UserError(
                f"(loss, gradient norm) {others.tolist()} of {name}, {losses.tolist()} of ours: another network"
            )
        found[name] = apart.tolist()
    return found
