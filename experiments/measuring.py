"""What a config says about measuring: synthetic data, the profile, and the peak that MFU is a share of."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax

from lapa_jax import errors, model_flops, speed, tracing
from lapa_jax.data import synthetic
from lapa_jax.models import laq
from lapa_jax.planning import chips


def source(config: Any, batches: Any) -> Any:
    """The stream of training, or its first batch again and again where `data.synthetic` says so."""
    if not config.data.synthetic:
        return batches
    if jax.process_index() == 0:
        print("[data] synthetic: one batch is read and then repeated, for its speed; nothing useful is learned")
    return synthetic.Repeated(batches)


def speedometer(
    config: Any, workdir: str, mesh: jax.sharding.Mesh, make_step: Callable[[], Any]
) -> speed.Speedometer:
    """Measures a run.

    Args:
        make_step: () -> the train step of the same model without remat and with attention "xla", to be counted.

    Raises:
        UserError: `profile` makes no sense.
    """
    trace = tracing.Trace(tracing.parse(config.profile.steps, config.num_steps), f"{workdir}/profile")
    peak = peak_of(config.profile.peak_tflops, mesh)
    if peak is None:
        return speed.Speedometer(trace=trace)

    def count(state: Any, batch: Any) -> model_flops.Needs | None:
        try:
            return model_flops.needs(make_step(), state, batch, peak)
        except errors.UserError as error:
            print(f"[speed] no MFU: {error}", flush=True)
            return None

    return speed.Speedometer(count, trace)


def peak_of(tflops: float | None, mesh: jax.sharding.Mesh) -> Callable[[str], float] | None:
    """Kind of product -> FLOP/s of all devices: as given for one, else by the table; None: nobody knows.

    Raises:
        UserError: no peak.
    """
    if tflops is not None:
        if not tflops > 0:
            raise errors.UserError(f"profile.peak_tflops={tflops} is no peak: give TFLOP/s of one device")
        return lambda kind: tflops * 1e12 * mesh.size
    chip = chips.of(mesh.devices.flat[0].device_kind)
    return None if chip is None else lambda kind: chip.flops(kind) * mesh.size


def plain_laq(model: laq.LatentActionQuantizer) -> laq.LatentActionQuantizer:
    """The same model, without remat."""
    return model.clone(backbone_args={**model.backbone_args, "remat": False})


def plain_vlm(task: Any) -> Any:
    """The same task of stage 2 or 3, its VLM without remat and with attention "xla"."""
    model = task.planner.model
    trunk = {**model.trunk, "remat": "none", "attention": None}
    planner = dataclasses.replace(task.planner, model=model.clone(trunk=trunk))
    return dataclasses.replace(task, planner=planner)
