"""The image tokenizer that LWM and LAPA publish (file `vqgan`) in and out; none of its pickle is run.

    python experiments/convert_vqgan.py --official=vqgan --workdir=runs/vqgan
    python experiments/convert_vqgan.py --run=runs/vqgan --out=vqgan

The first makes a folder like that of a train_tokenizer run, at step 0. See docs/tokenizer.md.
"""

import functools
from typing import Any

import conversion
import jax
import launch
from absl import flags
from ml_collections import config_flags

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import array_pickle, official_vqgan, states
from lapa_jax.models import vqgan

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/train_tokenizer.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "In: the run's folder to make.")
OFFICIAL = flags.DEFINE_string("official", None, "In: the official file.")
RUN = flags.DEFINE_string("run", None, "Out: folder of a train_tokenizer run.")
OUT = flags.DEFINE_string("out", None, "Out: the official file to write.")


def import_official(path: str, workdir: str, config: dict[str, Any]) -> dict[str, Any]:
    """Make `workdir` a train_tokenizer run of the official file at `path`; returns its config.

    Args:
        config: of train_tokenizer; the model is replaced by that of the file.
    """
    model, params = official_vqgan.read(path)
    config = config | {"model": config["model"] | model}
    module, image_size = vqgan.from_config(config["model"]), config["data"]["image_size"]
    mesh = sharding.make_mesh(devices=jax.local_devices())
    make_state = functools.partial(states.of_params, vqgan.init_fn(module, image_size), params, mesh)
    conversion.save_run(path, workdir, config, mesh, make_state)
    return config


def export_run(run: str, out: str) -> None:
    """Write the tokenizer of a train_tokenizer run as an official file."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    with jax.set_mesh(mesh):
        tokenizer = trained.load_tokenizer(run, mesh)
        variables = jax.device_get(tokenizer.variables)
        array_pickle.write(out, official_vqgan.export(tokenizer.model, variables.pop("params"), variables))


def main(_: Any) -> None:
    conversion.check_way(OFFICIAL.value, WORKDIR.value, RUN.value, OUT.value)
    config = CONFIG.value
    launch.start(config, share="nothing")
    if RUN.value:
        export_run(RUN.value, OUT.value)
        print(f"[convert] wrote {OUT.value}", flush=True)
        return
    given = [key for key in config_flags.get_override_values(flags.FLAGS["config"]) if key.startswith("model.")]
    if set(given) - {"model.dtype"}:
        raise errors.UserError(f"--config.{given[0]}: the model is that of {OFFICIAL.value}; leave that flag out")
    config = import_official(OFFICIAL.value, WORKDIR.value, config.to_dict())
    model, size = config["model"], config["data"]["image_size"]
    side = size // vqgan.from_config(model).factor
    codes = f"{size} px to {side}x{side} codes of {model['num_codes']}"
    print(f"[convert] wrote {WORKDIR.value}: {codes}", flush=True)


if __name__ == "__main__":
    launch.run(main)
