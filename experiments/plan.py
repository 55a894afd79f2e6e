"""Will it fit, how fast will it be, what will it cost: a run's train step compiled for machines that are not here.

    pip install -e . 'libtpu==0.0.42.*'     # the compiler for TPUs; no TPU is needed
    python experiments/plan.py --config=experiments/configs/pretrain_vlm.py:base --topology=v5e:8x8
    python experiments/plan.py --config=experiments/configs/train_laq.py:base --topology=gpu:h100:8x1 \
        --config.batch_size=512 --config.mesh.fsdp=8

Prints memory, work, traffic and collectives of a device, and the step's time by a roofline. Ends with status 3 when
the run does not fit, having looked for a change of the config that makes it fit. See docs/scale.md.
"""

import json
import pathlib
from typing import Any

import jax
import launch
import plan_knobs
import plan_page
import step_networks
import steps
from absl import flags
from absl import logging as absl_logging
from ml_collections import config_flags

from lapa_jax import errors, sharding
from lapa_jax.planning import plan as plans
from lapa_jax.planning import topologies

CONFIG = config_flags.DEFINE_config_file("config", "experiments/configs/pretrain_vlm.py", lock_config=True)
_TOPOLOGY = flags.DEFINE_string("topology", None, "As v5e:8x16, v5p-32, v5e:8x8*2, gpu:h100:8x4.", required=True)
_PROGRAM = flags.DEFINE_string("program", None, "Whose config it is; None: as its file is called.")
_RESERVE = flags.DEFINE_float("reserve", 0.05, "Share of a device's memory that is to stay free.")
_ADVISE = flags.DEFINE_bool("advise", True, "Look for a change that makes it fit, if it does not.")
_HLO = flags.DEFINE_string("hlo", None, "The compiled program, as text, into this file.")
_JSON = flags.DEFINE_string("json", None, "All numbers, into this file.")


def planned(
    program: str, config: Any, topology: topologies.Topology, devices: Any, keep: pathlib.Path | None = None
) -> plans.Plan:
    """The plan of one config."""
    mesh = sharding.make_mesh(**config.mesh, devices=devices)
    made = steps.make(program, config, mesh)
    needed, filled = steps.needed(made), made.network.filled
    return plans.make(made.step, made.state, made.batch, mesh, topology, needed, filled, keep)


def program_of(path: str | None) -> str:
    """
    Raises:
        UserError: no program has a config of that name.
    """
    name = _PROGRAM.value or pathlib.Path((path or "").partition(":")[0]).stem
    if name not in step_networks.NETWORKS:
        raise errors.UserError(f"no plan for {name}; choose --program among {', '.join(step_networks.NETWORKS)}")
    return name


def main(_: Any) -> None:
    absl_logging.set_verbosity(absl_logging.WARNING)
    topology, config, reserve = topologies.parse(_TOPOLOGY.value), CONFIG.value, _RESERVE.value
    program = program_of(config_flags.get_config_filename(flags.FLAGS["config"]))
    compiler = topologies.compiler(topology)
    print(plan_page.about(program, topology, compiler, config), flush=True)
    keep = pathlib.Path(_HLO.value) if _HLO.value else None
    plan = planned(program, config, topology, compiler.devices, keep)
    print(plan_page.page(plan, topology, config, reserve), flush=True)
    if _JSON.value:
        facts = plan_page.facts(plan, topology, config, reserve)
        facts |= {"compiler": compiler.name, "jax": jax.__version__}
        pathlib.Path(_JSON.value).write_text(json.dumps(facts, indent=1) + "\n")
    if plan.fits(topology, reserve):
        return
    found = None
    if _ADVISE.value:
        found = plan_knobs.search(
            config, plan.memory, topology, reserve,
            lambda changed: planned(program, changed, topology, compiler.devices),
        )
    print(plan_page.advice(found), flush=True)
    raise SystemExit(3)


if __name__ == "__main__":
    launch.run(main)
