"""What a plan says, in words and as JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from lapa_jax.planning.plan import Plan
from lapa_jax.planning.roofline import Estimate
from lapa_jax.planning.topologies import Compiler, Topology

GIB, GB, TERA = 2**30, 1e9, 1e12
PARTS = {
    "parameters": "params", "optimizer": "opt_state", "averages": "ema", "other state": "variables",
    "batch": "batch", "padding": "layout", "temporaries": "temporaries", "outputs": "outputs", "program": "program",
}  # fmt: skip
"""Name -> attribute of `memory.Memory`."""


def about(program: str, topology: Topology, compiler: Compiler, config: Any) -> str:
    """What is planned, before anything is compiled."""
    mesh = " ".join(f"{axis}={size}" for axis, size in config.mesh.items())
    likeness = "" if compiler.exact else "; memory and collectives are of that one, not of what will run"
    return (
        f"{program} on {topology.name}: {topology.size} devices, compiled for {compiler.name}{likeness}\n"
        f"mesh {mesh}, batch {config.batch_size} in {config.accumulate} part{'s' * (config.accumulate > 1)}"
    )


def page(plan: Plan, topology: Topology, config: Any, reserve: float) -> str:
    """The numbers of a plan, a line a subject."""
    lines = [_memory(plan, topology, reserve)]
    if not plan.memory.refused:
        lines += [_work(plan, topology), _collectives(plan.sent)]
    if plan.estimate is not None:
        lines += [_times(plan.estimate), _cost(plan, topology, config)]
    return "\n".join(lines)


def _memory(plan: Plan, topology: Topology, reserve: float) -> str:
    sizes = {name: getattr(plan.memory, attribute) for name, attribute in PARTS.items()}
    shown = ", ".join(f"{name} {size / GIB:.2f}" for name, size in sizes.items() if abs(size) >= GIB / 200)
    line = f"memory a device, GiB: {shown}; peak {plan.memory.peak / GIB:.2f}"
    if topology.chip is None:
        return line
    verdict = "fits" if plan.fits(topology, reserve) else "does not fit"
    return f"{line} of {topology.chip.memory / GIB:.1f}, {reserve:.0%} of which stay free: {verdict}"


def _work(plan: Plan, topology: Topology) -> str:
    share = plan.needed.needed / topology.size
    return (
        f"work a device and step: {plan.flops / TERA:.3f} TFLOP, of which the model needs {share / TERA:.3f} "
        f"({plan.flops / share - 1:+.0%}: remat, attention's second pass, work that is not split); "
        f"{plan.traffic / GB:.1f} GB of memory traffic"
    )


def _collectives(sent: Mapping[str, float]) -> str:
    if not sent:
        return "collectives: none"
    return "collectives, GB sent by a device and step: " + ", ".join(f"{k} {v / GB:.2f}" for k, v in sent.items())


def _times(estimate: Estimate) -> str:
    names = ("compute", "memory", "links", "network")
    parts = ", ".join(f"{name} {getattr(estimate, name):.4f}" for name in names)
    return f"seconds a step, each alone at its peak: {parts}; bound by {estimate.bound}"


def _cost(plan: Plan, topology: Topology, config: Any) -> str:
    bounds = (plan.estimate.shortest, plan.estimate.longest)
    step = " to ".join(f"{one:.3f}" for one in bounds)
    mfu = " to ".join(f"{plan.estimate.mfu(one):.0%}" for one in bounds)
    hours = [one * config.num_steps / 3600 for one in bounds]
    devices = [one * topology.size for one in hours]
    real = "" if plan.filled is None else f" ({plan.filled:.0%} of the places hold a token)"
    return (
        f"a step takes {step} s (all at once, or nothing at once), MFU {mfu}{real}; {config.num_steps} steps "
        f"{hours[0]:.2f} to {hours[1]:.2f} h, {devices[0]:.1f} to {devices[1]:.1f} device-hours; waiting, saving "
        "and failures are not counted"
    )


def advice(found: Mapping[str, Any] | None) -> str:
    """What `plan_knobs.search` found."""
    if found is None:
        return "error: it does not fit, and none of the changes that were tried makes it fit: take more devices"
    flags = " ".join(f"--config.{key}={value}" for key, value in found.items())
    return f"error: it does not fit; with this it does: {flags}"


def facts(plan: Plan, topology: Topology, config: Any, reserve: float) -> dict[str, Any]:
    """All numbers, JSON-able: bytes, FLOPs and seconds of a device and step."""
    estimate = plan.estimate and dataclasses.asdict(plan.estimate) | {
        "shortest": plan.estimate.shortest, "longest": plan.estimate.longest, "bound": plan.estimate.bound,
        "mfu": [plan.estimate.mfu(plan.estimate.shortest), plan.estimate.mfu(plan.estimate.longest)],
    }  # fmt: skip
    return {
        "topology": topology.name, "devices": topology.size, "mesh": dict(config.mesh),
        "batch_size": config.batch_size, "accumulate": config.accumulate,
        "memory": dataclasses.asdict(plan.memory) | {"peak": plan.memory.peak},
        "fits": plan.fits(topology, reserve), "filled": plan.filled,
        "needed": plan.needed.needed, "causal": plan.needed.causal, "flops": plan.flops, "traffic": plan.traffic,
        "sent": dict(plan.sent), "estimate": estimate, "compile_seconds": plan.seconds,
    }  # fmt: skip
