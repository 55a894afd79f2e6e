"""Several datasets with weights: the named mixtures, what a user may write, and sampling probabilities.

A weight multiplies the size of its dataset, as Octo's `balance_weights` has it: with `balance` a dataset
is sampled in proportion to weight x number of examples, so that weights of 1 make every example equally
likely. Without it the weights alone count, whatever the sizes.
"""

import math
from collections.abc import Sequence

import numpy as np

from lapa_jax import errors
from lapa_jax.data.tables import standard

Mixture = tuple[tuple[str, float], ...]

_LEAST = 1e-18  # probability with which a dataset is drawn; grain counts in 64 bits

HUMAN_SOURCES = ("ssv2",)
"""Members that are human video and have no entry in the table: folders written from it, by name."""

# Octo's oxe_dataset_mixes.py and OpenVLA's mixtures.py, under the names in the files.
_COMMON: Mixture = (
    ("fractal20220817_data", 0.54087122203),
    ("kuka", 0.8341046294),
    ("bridge_dataset", 1.0),
    ("taco_play", 2.0),
    ("jaco_play", 1.0),
    ("berkeley_cable_routing", 1.0),
    ("roboturk", 2.0),
    ("viola", 2.0),
    ("berkeley_autolab_ur5", 2.0),
    ("toto", 1.0),
    ("language_table", 0.1),
    ("stanford_hydra_dataset_converted_externally_to_rlds", 2.0),
    ("austin_buds_dataset_converted_externally_to_rlds", 1.0),
    ("nyu_franka_play_dataset_converted_externally_to_rlds", 3.0),
    ("furniture_bench_dataset_converted_externally_to_rlds", 0.1),
    ("ucsd_kitchen_dataset_converted_externally_to_rlds", 2.0),
    ("austin_sailor_dataset_converted_externally_to_rlds", 1.0),
    ("austin_sirius_dataset_converted_externally_to_rlds", 1.0),
    ("bc_z", 0.2),
    ("dlr_edan_shared_control_converted_externally_to_rlds", 1.0),
    ("iamlab_cmu_pickup_insert_converted_externally_to_rlds", 1.0),
    ("utaustin_mutex", 1.0),
    ("berkeley_fanuc_manipulation", 2.0),
    ("cmu_stretch", 1.0),
)
_PLUS: Mixture = (*_COMMON, ("fmb", 1.0), ("dobbe", 0.2), ("droid", 0.06))
_HUMAN: Mixture = tuple((name, 1.0) for name in HUMAN_SOURCES)

MIXTURES: dict[str, Mixture] = {
    "bridge": (("bridge_dataset", 1.0),),
    "oxe_magic_soup": (*_COMMON, ("nyu_door_opening_surprising_effectiveness", 1.0)),
    "oxe_magic_soup_plus": _PLUS,
    # LAPA names "Open-X" and 970,000 trajectories and no list; OpenVLA's mixture has as many.
    "lapa_openx": _PLUS,
    "human": _HUMAN,
    # Ours, of no paper.
    "human+robot": (*_HUMAN, *_PLUS),
}


def parse(text: str) -> Mixture:
    """The datasets and weights that a user wrote.

    Args:
        text: the name of a mixture or of a dataset of the table; or "FOLDER=WEIGHT,FOLDER=WEIGHT", where
            a folder is a path, a URL or the name of a dataset, and a weight that is left out is 1. A
            single folder without a weight needs a slash ("./name"), which tells it from a typing error.

    Raises:
        UserError: an unknown name, a weight that is no positive number, a folder named twice, or nothing.
    """
    text = text.strip()
    if text in MIXTURES:
        return MIXTURES[text]
    if text and not any(sign in text for sign in "/\\,=") and not _is_dataset(text):
        raise errors.UserError(
            f"no mixture {text!r}; known are {', '.join(MIXTURES)}, the datasets of docs/datasets.md, and "
            f"FOLDER=WEIGHT,FOLDER=WEIGHT (write {f'./{text}'!r} for a folder)"
        )
    members = tuple(_member(item) for item in text.split(","))
    for i, (name, _) in enumerate(members):
        if name in (other for other, _ in members[:i]):
            raise errors.UserError(f"mixture names {name!r} twice; add up its weights")
    return members


def _member(item: str) -> tuple[str, float]:
    folder, sign, tail = item.strip().rpartition("=")
    weight = _number(tail) if sign else 1.0
    if weight is None and "/" in tail:  # "=" is part of a path without a weight
        folder, weight = item.strip(), 1.0
    elif not sign:
        folder = tail
    folder = folder.strip()
    folder = folder.rstrip("/") or folder[:1]
    if not folder:
        raise errors.UserError(f"mixture has no folder in {item.strip()!r}; write FOLDER=WEIGHT,FOLDER=WEIGHT")
    if weight is None or not (math.isfinite(weight) and weight > 0):
        raise errors.UserError(f"weight {tail.strip()!r} of {folder!r} is no positive number; leave it out for 1")
    if folder in MIXTURES and not _is_dataset(folder):
        raise errors.UserError(f"mixture {folder!r} cannot be part of another; write its members out")
    return folder, weight


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_dataset(name: str) -> bool:
    return name in HUMAN_SOURCES or standard.lookup(name) is not None


def probabilities(
    weights: Sequence[float], sizes: Sequence[int], balance: bool = True, names: Sequence[str] | None = None
) -> np.ndarray:
    """How often each dataset is sampled.

    Args:
        weights: positive, K of them.
        sizes: examples (frame pairs, say) of each dataset.
        balance: whether sizes count; see the module's docstring.
        names: of the datasets, for messages.

    Returns:
        float64[K] that sums to 1.

    Raises:
        UserError: no datasets, a weight that is no positive number, or a dataset without examples.
    """
    if not len(weights) or len(weights) != len(sizes):
        raise errors.UserError(f"{len(weights)} weights for {len(sizes)} datasets; give one weight a dataset")
    for i, (weight, size) in enumerate(zip(weights, sizes, strict=True)):
        name = names[i] if names else f"dataset {i}"
        if not (math.isfinite(weight) and weight > 0):
            raise errors.UserError(f"weight {weight} of {name} is no positive number; correct the mixture")
        if size < 1:
            raise errors.UserError(f"{name} has no examples; leave it out of the mixture, or use a shorter gap")
    # Each divided by its largest first, so that no product of two large numbers overflows.
    shares = np.asarray(weights, np.float64) / max(weights)
    if balance:
        shares = shares * (np.asarray(sizes, np.float64) / max(sizes))
    probabilities = shares / shares.sum()
    if (least := probabilities.min()) < _LEAST:
        which = int(probabilities.argmin())
        name = names[which] if names else f"dataset {which}"
        raise errors.UserError(f"{name} would be drawn once in {1 / max(least, 1e-99):.0g} examples; leave it out")
    return probabilities


def render() -> str:
    """The named mixtures as Markdown: a row a dataset, a column a mixture."""
    members = {name: dict(mixture) for name, mixture in MIXTURES.items()}
    datasets = sorted({dataset for mixture in members.values() for dataset in mixture})
    rows = [["dataset", *members], ["---"] * (len(members) + 1)]
    rows += [
        [f"`{d}`", *(f"{mixture[d]:g}" if d in mixture else "" for mixture in members.values())] for d in datasets
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


if __name__ == "__main__":
    print(render())
