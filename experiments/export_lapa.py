"""The language model of a pretrain_vlm run as an official file, which the official code loads as `params::FILE`.

    python experiments/export_lapa.py --run=runs/lapa_mine --out=streaming_params.mine

Thin matrices (LoRA) are added to their kernels. The run's trunk and tables must be of the official model's kind;
see docs/import-official.md.
"""

import pathlib
from typing import Any

import jax
import launch
from absl import flags

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import official_lapa
from lapa_jax.models import lora

_RUN = flags.DEFINE_string("run", None, "Folder of a pretrain_vlm run.", required=True)
_OUT = flags.DEFINE_string("out", None, "The official file to write.", required=True)
_DTYPE = flags.DEFINE_enum(
    "dtype", "bfloat16", ["bfloat16", "float32"], "Of all leaves; what is published is bfloat16."
)
_SCANNED = flags.DEFINE_bool("scan_layers", True, "All layers in one leaf, as published; else one by one.")


def export(run: str, out: str, dtype: str = "bfloat16", scan_layers: bool = True) -> None:
    """Write the parameters of a pretrain_vlm run as an official file; on the way they are spread over all devices.

    Raises:
        UserError: no such run, a parameter that the official model has not, or `out` is there already.
    """
    if pathlib.Path(out).exists():
        raise errors.UserError(f"{out} exists: give another --out, nothing is overwritten")
    mesh = sharding.make_mesh(data=1, fsdp=1, tensor=-1, devices=jax.local_devices())
    planner, state = trained.load_planner(run, mesh)
    thin = planner.config.get("lora") or {"alpha": 0.0}
    official_lapa.write(out, lora.merged(state.params, thin["alpha"]), dtype, scan_layers)


def main(_: Any) -> None:
    export(_RUN.value, _OUT.value, _DTYPE.value, _SCANNED.value)
    print(f"[export] wrote {_OUT.value}", flush=True)


if __name__ == "__main__":
    launch.run(main)
