"""Builds the tabletop dataset.

    python data/tabletop/build.py --out=datasets --train_episodes=400 --labelled_episodes=60

A finished dataset with the same recipe is kept as it is; a killed build can be started again.
"""

import dataclasses
import tempfile
from pathlib import Path

import demonstrations
import tabletop_dataset_builder
import tensorflow_datasets as tfds
from absl import app, flags, logging

from lapa_jax import errors

_OUT = flags.DEFINE_string("out", None, "The dataset goes to OUT/tabletop/1.0.0.", required=True)
_TRAIN = flags.DEFINE_integer("train_episodes", 400, "Episodes without action labels in use.")
_VAL = flags.DEFINE_integer("val_episodes", 40, "The same, from other seeds.")
_LABELLED = flags.DEFINE_integer("labelled_episodes", 60, "Episodes whose actions are used.")
_SEED = flags.DEFINE_integer("seed", 0, "Every episode follows from it.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Side of the frames, pixels.")
_NOISE = flags.DEFINE_float("expert_noise", 0.006, "Std of the expert's noise, metres a step.")
_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes that simulate; 0 uses this one.")


def build(out: str | Path, recipe: demonstrations.Recipe, num_workers: int = 2) -> Path:
    """Builds `OUT/tabletop/1.0.0`, or returns it when it is there already.

    TFDS writes to a folder beside it and renames that at the end, so what has the final name is
    whole.

    Raises:
        UserError: another dataset is there.
    """
    out = Path(out).expanduser().resolve()
    folder = out / "tabletop" / str(tabletop_dataset_builder.Tabletop.VERSION)
    if folder.exists():
        _check_same(folder, recipe)
        return folder
    builder = tabletop_dataset_builder.Tabletop(
        recipe=recipe, num_workers=num_workers, data_dir=str(out)
    )
    tfds.disable_progress_bar()  # the builder shows one bar a split instead
    with tempfile.TemporaryDirectory() as downloads:
        builder.download_and_prepare(download_dir=downloads)
    return folder


def _check_same(folder: Path, recipe: demonstrations.Recipe) -> None:
    try:
        found = tfds.builder_from_directory(str(folder)).info.metadata["recipe"]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise errors.UserError(
            f"{folder} is there and is not a dataset of this program; choose another --out"
        ) from error
    for name, value in dataclasses.asdict(recipe).items():
        if found.get(name) != value:
            raise errors.UserError(
                f"{folder} was built with {name}={found.get(name)}, not {value}; choose another "
                "--out or remove it"
            )


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file at INFO
    with errors.in_one_line():
        recipe = demonstrations.Recipe(
            train_episodes=_TRAIN.value,
            val_episodes=_VAL.value,
            labelled_episodes=_LABELLED.value,
            seed=_SEED.value,
            image_size=_IMAGE_SIZE.value,
            expert_noise=_NOISE.value,
        )
        folder = build(_OUT.value, recipe, _WORKERS.value)
    info = tfds.builder_from_directory(str(folder)).info
    for split, details in sorted(info.splits.items()):
        dropped = info.metadata["dropped"][split]
        print(f"{split}: {details.num_examples} episodes kept, {dropped} failed ones dropped")
    print(folder)


if __name__ == "__main__":
    app.run(main)
