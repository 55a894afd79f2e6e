"""Records the scripted expert of an environment.

    python data/simulated/build.py --out=datasets --train_episodes=400 --labelled_episodes=60
    python data/simulated/build.py --env=metaworld --out=datasets --train_episodes=720

A finished dataset with the same recipe is kept as it is; a killed build can be started again.
"""

import dataclasses
import tempfile
from pathlib import Path

import demonstrations
import environments
import rlds_builder
import tensorflow_datasets as tfds
from absl import app, flags, logging

from lapa_jax import envs, errors

_ENV = flags.DEFINE_string("env", "tabletop", "A name in lapa_jax.envs, or the module of an environment.")
_OUT = flags.DEFINE_string("out", None, "The dataset goes to OUT/NAME/1.0.0.", required=True)
_NAME = flags.DEFINE_string("name", None, "Of the dataset; by default the environment's.")
_TRAIN = flags.DEFINE_integer("train_episodes", 400, "Episodes without action labels in use.")
_VAL = flags.DEFINE_integer("val_episodes", 40, "The same, from other seeds.")
_LABELLED = flags.DEFINE_integer("labelled_episodes", 60, "Episodes whose actions are used.")
_SEED = flags.DEFINE_integer("seed", 0, "Every episode follows from it.")
_IMAGE_SIZE = flags.DEFINE_integer("image_size", 64, "Side of the frames, pixels.")
_NOISE = flags.DEFINE_float("expert_noise", None, "Std of the expert's noise; None: as in environments.py.")
_ARGS = flags.DEFINE_string("env_args", "{}", 'Further arguments of the environment, {"camera": "corner2"}.')
_WORKERS = flags.DEFINE_integer("num_workers", 2, "Processes that simulate; 0 uses this one.")


def build(out: str | Path, recipe: demonstrations.Recipe, num_workers: int = 2) -> Path:
    """Builds `OUT/NAME/1.0.0`, or returns it when it is there already.

    TFDS writes to a folder beside it and renames that at the end, so what has the final name is
    whole.

    Raises:
        UserError: another dataset is there.
    """
    out = Path(out).expanduser().resolve()
    folder = out / recipe.name / str(rlds_builder.Simulated.VERSION)
    if folder.exists():
        _check_same(folder, recipe)
        return folder
    builder = rlds_builder.Simulated(recipe=recipe, num_workers=num_workers, data_dir=str(out))
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
    before = {field.name: field.default for field in dataclasses.fields(recipe)} | found  # older ones say less
    for name, value in dataclasses.asdict(recipe).items():
        if before[name] != value:
            raise errors.UserError(
                f"{folder} was built with {name}={before[name]}, not {value}; choose another "
                "--out or remove it"
            )


def recipe_of_flags() -> demonstrations.Recipe:
    """The recipe that the command line asks for."""
    noise = environments.named(_ENV.value).expert_noise if _NOISE.value is None else _NOISE.value
    return demonstrations.Recipe(
        train_episodes=_TRAIN.value,
        val_episodes=_VAL.value,
        labelled_episodes=_LABELLED.value,
        seed=_SEED.value,
        image_size=_IMAGE_SIZE.value,
        expert_noise=noise,
        environment=envs.module_path(_ENV.value),
        name=_NAME.value or _ENV.value.rpartition(".")[2],
        env_args=_ARGS.value,
    )


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.WARNING)  # TFDS tells of every file at INFO
    with errors.in_one_line():
        folder = build(_OUT.value, recipe_of_flags(), _WORKERS.value)
    info = tfds.builder_from_directory(str(folder)).info
    for split, details in sorted(info.splits.items()):
        dropped = info.metadata["dropped"][split]
        print(f"{split}: {details.num_examples} episodes kept, {dropped} failed ones dropped")
    print(folder)


if __name__ == "__main__":
    app.run(main)
