"""The contestants of this benchmark, and that they are the same network."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors
from race.contestants import Contestant
from vlm_speed.job import BATCHES, Job

KINDS = {"transformers": "vlm_speed.theirs.Transformers", "ours": "vlm_speed.ours.Ours"}
"""The baseline first: it writes the weights."""
BASELINE = "transformers"
_TRAINING = ("train", "train_latents")
_GENERATION = {f"generate_{count}": float(count) for count in BATCHES}
TASKS = (*_TRAINING, *_GENERATION)
_STEPS = 3
_TOLERANCE = {"logits": 1e-4, "loss": 1e-4, "grad_norm": 1e-3}  # float32 sums of 2e8 squares differ more


def tasks(job: Job) -> dict[str, tuple[float, str]]:
    """Method -> what a step of it does, and the unit's name."""
    tokens = float(job.rows * job.sizes.row)
    training = {name: (tokens, "tokens") for name in _TRAINING}
    return training | {name: (count, "prompts") for name, count in _GENERATION.items()}


def check(competing: Mapping[str, Contestant]) -> dict[str, Any]:
    """That both give the same logits and tokens, and losses and gradient norms over training steps.

    Returns:
        Largest difference of logits, and relative ones of loss and gradient norm.

    Raises:
        UserError: they differ.
    """
    ours, theirs = competing["ours"], competing[BASELINE]
    apart = {"logits": float(np.max(np.abs(ours("logits") - theirs("logits"))))}
    for count in BATCHES:
        found = [one("generate", count) for one in (ours, theirs)]
        if not np.array_equal(*found):
            raise errors.UserError(f"after {count} prompts ours says {found[0][0]}, transformers {found[1][0]}")
    mine, others = (np.array(one("losses", _STEPS)) for one in (ours, theirs))
    loss, norm = np.max(np.abs(mine / others - 1), axis=0).tolist()
    apart |= {"loss": loss, "grad_norm": norm}
    if not all(apart[name] < most for name, most in _TOLERANCE.items()):
        raise errors.UserError(f"{apart}: another network")
    return apart
