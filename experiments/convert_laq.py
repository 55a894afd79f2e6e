"""Official LAQ checkpoints (`laq_openx.pt`, `vae.N.pt`) in and out; torch is not needed.

    python experiments/convert_laq.py --official=laq_openx.pt --workdir=runs/laq_openx
    python experiments/convert_laq.py --run=runs/laq --out=laq.pt

The first makes a folder like that of a train_laq run, which label_latents and evaluate_laq take. What data it will
label is said now: --config.data.directory, .gap, ... are those of train_laq. See docs/import-official.md.
"""

import functools
from collections.abc import Mapping
from typing import Any

import conversion
import jax
import launch
from absl import flags
from ml_collections import config_flags

from lapa_jax import checkpoints, errors, sharding, trained
from lapa_jax.convert import official_laq, torch_zip

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/train_laq.py:official", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "In: the run's folder to make.")
OFFICIAL = flags.DEFINE_string("official", None, "In: the official checkpoint.")
IMAGE_SIZE = flags.DEFINE_integer("image_size", None, "In: pixels; None: the one the checkpoint is made for.")
PART = flags.DEFINE_string("part", None, "In: which state dict of a file of several, as ema_model.")
IGNORE = flags.DEFINE_string("ignore", None, "In: regular expression of entries to leave out.")
RUN = flags.DEFINE_string("run", None, "Out: folder of a train_laq run.")
OUT = flags.DEFINE_string("out", None, "Out: the official checkpoint to write.")

KNOBS = (".dtype", ".remat")
"""Keys of the model that change how it is computed and not what it is."""


def import_official(
    path: str, workdir: str, config: dict[str, Any], given: Mapping[str, Any], **options: Any
) -> dict[str, Any]:
    """Make `workdir` a train_laq run of the official checkpoint at `path`; returns its config.

    Args:
        config: of train_laq; model and image size are replaced by those of the checkpoint.
        given: dotted keys of `config` that the user set: they may not disagree with the checkpoint.
        options: of `official_laq.read`.
    """
    model, body, codebook = official_laq.read(path, **options)
    args = config["model"]["backbone_args"] | model["backbone_args"]
    told = {"model": model, "data": {"image_size": args["image_size"]}}
    _check(given, checkpoints.flatten(told), path)
    config = config | {"model": config["model"] | model | {"backbone_args": args}}
    config["data"] = config["data"] | told["data"]
    mesh = sharding.make_mesh(devices=jax.local_devices())
    make_state = functools.partial(official_laq.train_state, config["model"], body, codebook, mesh)
    conversion.save_run(path, workdir, config, mesh, make_state)
    return config


def _check(given: Mapping[str, Any], told: Mapping[str, Any], path: str) -> None:
    """Refuse what the user set otherwise than the checkpoint has it."""
    for key, value in given.items():
        if key in told and told[key] != value:
            raise errors.UserError(f"--config.{key}={value}, but {path} has {told[key]}: leave that flag out")
        if key.startswith("model.") and key not in told and not key.endswith(KNOBS):
            raise errors.UserError(f"--config.{key} is not for an official LAQ: leave that flag out")


def export_run(run: str, out: str) -> None:
    """Write the LAQ of a train_laq run as an official checkpoint."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    with jax.set_mesh(mesh):
        model, state, _ = trained.load_laq(run, mesh)
        torch_zip.write(out, official_laq.export(model, jax.device_get(state.params)))


def main(_: Any) -> None:
    conversion.check_way(OFFICIAL.value, WORKDIR.value, RUN.value, OUT.value)
    config = CONFIG.value
    launch.start(config, share="nothing")
    if RUN.value:
        export_run(RUN.value, OUT.value)
        print(f"[convert] wrote {OUT.value}", flush=True)
        return
    given = config_flags.get_override_values(flags.FLAGS["config"])
    options = dict(image_size=IMAGE_SIZE.value, part=PART.value, ignore=IGNORE.value)
    model = import_official(OFFICIAL.value, WORKDIR.value, config.to_dict(), given, **options)["model"]
    sizes = ", ".join(f"{key} {value}" for key, value in model["backbone_args"].items())
    codes = f"{model['code_length']} x {model['num_codes']} codes of {model['code_dim']}"
    print(f"[convert] wrote {WORKDIR.value}: {codes}; {sizes}", flush=True)


if __name__ == "__main__":
    launch.run(main)
