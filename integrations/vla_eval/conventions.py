"""What the benchmarks of vla-eval send and take, and what a policy of ours takes and gives; needs neither.

A row is read off the benchmark's own file in that repository, src/vla_eval/benchmarks/NAME/benchmark.py (version
0.8.0): `make_obs`, `step` and the specs. Where the specs and `step` disagree, `step` is what happens.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax.errors import UserError

GRIPPERS = {
    "open_01": (lambda g: g, lambda o: o),
    "close_01": (lambda g: 1 - g, lambda o: 1 - o),
    "open_positive": (lambda g: (g + 1) / 2, lambda o: 2 * o - 1),
    "close_positive": (lambda g: (1 - g) / 2, lambda o: 1 - 2 * o),
}
"""Convention of a gripper command -> maps to and from how open it is, 0 to 1. `_positive` run from -1 to 1."""

ROTATIONS = ("axis_angle", "euler_xyz")  # euler_xyz: roll, pitch, yaw about fixed axes, in this order

OURS = "1 open, 0 closed"
"""How the table of datasets begins what it says of a gripper once standardised (docs/datasets.md): `open_01`."""

LAST = "last_latents"
"""Key of the latent action planned at the last look, for policies that are told of it (`history`)."""

IMAGE, LANGUAGE = (0, "rgb_hwc_uint8"), (0, "language")  # formats as vla_eval.specs names them


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """One family of benchmarks, as seen from a policy.

    Attributes:
        cameras: camera of the policy -> camera of the benchmark.
        action: component -> (numbers, format) in the words of vla_eval.specs; what `step` takes, in order.
        state: key of proprioception in an observation; None where none is sent.
        state_format: (numbers, format) of it.
        gripper: convention of the action's last number, a name in `GRIPPERS`; None: nothing is converted.
        rotation: what `step` takes numbers 3 to 5 for, a name in `ROTATIONS`; None: not known, or there are none.
        ask_wrist: parameters asked of the benchmark for a policy with `image_wrist`.
        ask_state: the same for one with proprioception.
    """

    cameras: Mapping[str, str]
    action: Mapping[str, tuple[int, str]]
    state: str | None = "states"
    state_format: tuple[int, str] = (0, "raw")
    gripper: str | None = None
    rotation: str | None = None
    ask_wrist: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ask_state: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def action_dim(self) -> int:
        return sum(numbers for numbers, _ in self.action.values())


_EULER = {"position": (3, "delta_xyz"), "rotation": (3, "euler_xyz")}

BENCHMARKS = {
    # Also libero_plus, libero_pro and libero_mem. Images arrive turned by 180 degrees, as in public datasets; so
    # does the state once quaternions are left as they are (OFT's server asks for the same).
    "libero": Benchmark(
        cameras={"image": "agentview", "image_wrist": "wrist"},
        action={
            "position": (3, "delta_xyz"), "rotation": (3, "axis_angle"), "gripper": (1, "binary_close_positive"),
        },
        state_format=(8, "eef_pos3_axisangle3_gripper2"),
        gripper="close_positive",
        rotation="axis_angle",
        ask_wrist={"send_wrist_image": True},
        ask_state={"send_state": True, "quat_no_antipodal": True},
    ),
    # The spec says close positive, but `step` opens above 0.5, with either gripper_mode. It says Euler angles, too,
    # but they go to a controller that reads rotation vectors.
    "simpler": Benchmark(
        cameras={"image": "primary"},
        action=_EULER | {"gripper": (1, "binary_close_positive")},
        gripper="open_01",
        rotation="axis_angle",
        ask_state={"send_state": True},
    ),
    # Metres and radians, added up by the benchmark; CALVIN's own rel_actions are scaled and are not these.
    "calvin": Benchmark(
        cameras={"image": "rgb_static", "image_wrist": "rgb_gripper"},
        action=_EULER | {"gripper": (1, "binary_close_negative")},
        state_format=(8, "eef_pos3_euler3_gripper2"),
        gripper="open_positive",
        rotation="euler_xyz",
        ask_wrist={"send_wrist_image": True},
        ask_state={"send_state": True},
    ),
    # Its gripper opens below 0.5. `base_camera` alone unless the eval config names more.
    "maniskill2": Benchmark(
        cameras={"image": "base_camera"},
        action=_EULER | {"gripper": (1, "binary_close_negative")},
        state=None,
        gripper="close_01",
    ),
    "vlabench": Benchmark(
        cameras={"image": "primary"},
        action=_EULER | {"gripper": (1, "raw")},
        state=None,
        gripper="open_positive",
        rotation="euler_xyz",
    ),
    # Absolute joint positions of two arms, each with its gripper; sent as they come.
    "robotwin": Benchmark(
        cameras={"image": "head_camera", "image_left": "left_camera", "image_right": "right_camera"},
        action={"joints": (14, "joint_positions")},
        state="joint_state",
        state_format=(0, "joint_positions"),
    ),
}


def named(name: str, cameras: Mapping[str, str] | None) -> Benchmark:
    """A row of `BENCHMARKS`, with other cameras where given; raises UserError for an unknown name."""
    if name not in BENCHMARKS:
        raise UserError(f"unknown benchmark {name!r}: choose one of {', '.join(BENCHMARKS)}")
    row = BENCHMARKS[name]
    return row if cameras is None else dataclasses.replace(row, cameras=cameras)


def check(benchmark: Benchmark, metadata: Mapping[str, Any]) -> None:
    """Raises UserError unless a policy with such metadata can be driven by `benchmark`."""
    missing = [camera for camera in metadata["cameras"] if camera not in benchmark.cameras]
    if missing:
        raise UserError(
            f"the policy looks through {missing}, and this benchmark's table has {dict(benchmark.cameras)}: "
            'say which cameras these are, --args.cameras=\'{"image": "NAME", ...}\''
        )
    if metadata["action_dim"] != benchmark.action_dim:
        raise UserError(
            f"the policy's actions have {metadata['action_dim']} numbers, this benchmark takes "
            f"{benchmark.action_dim} ({', '.join(benchmark.action)})"
        )
    if metadata["proprio_dim"] and benchmark.state is None:
        raise UserError("the policy needs proprioception, and this benchmark sends none")


def declared_gripper(benchmark: Benchmark, metadata: Mapping[str, Any], given: str | None) -> str | None:
    """The convention of the policy's gripper: `given`, or what its dataset declares, by name or in `OURS` words.

    Raises UserError where it is neither; a sign is never guessed.
    """
    if benchmark.gripper is None:
        return None
    name = given or (metadata.get("action_space") or {}).get("gripper")
    name = "open_01" if str(name).startswith(OURS) else name
    if name not in GRIPPERS:
        raise UserError(
            f"what does the policy's gripper number mean ({name!r})? --args.gripper= one of {', '.join(GRIPPERS)}"
        )
    return name


def chunk(metadata: Mapping[str, Any], given: int | None) -> int:
    """Actions to carry out between two looks; raises UserError for a number that the policy does not allow."""
    horizon, history = metadata["horizon"], metadata["history"]
    wanted = (history or horizon) if given is None else given
    if history and wanted != history:
        raise UserError(
            f"chunk_size={given}: this policy is told the latents of its last look, {history} steps before; "
            f"leave it out or say {history}"
        )
    if not 1 <= wanted <= horizon:
        raise UserError(f"chunk_size={given}: the policy plans {horizon} actions; say 1 to {horizon}")
    return wanted


def declared_rotation(benchmark: Benchmark, given: str | None) -> str | None:
    """The policy's rotations, where they are to be turned into the benchmark's; None: they go as they are.

    Raises UserError for an unknown name, or for a benchmark whose rotations are not known.
    """
    if given is None:
        return None
    if given not in ROTATIONS:
        raise UserError(f"unknown rotation {given!r}: choose one of {', '.join(ROTATIONS)}")
    if benchmark.rotation is None:
        raise UserError(f"rotation={given}: what this benchmark takes is not known, leave it out")
    return None if given == benchmark.rotation else given


def requests(benchmark: Benchmark, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters that the harness hands to the benchmark, so that it sends what the policy needs."""
    wrist = benchmark.ask_wrist if "image_wrist" in metadata["cameras"] else {}
    return {**wrist, **(benchmark.ask_state if metadata["proprio_dim"] else {})}


def observed(benchmark: Benchmark, metadata: Mapping[str, Any], sent: Mapping[str, Any]) -> dict[str, Any]:
    """The policy's observation from the harness's: cameras uint8[H, W, 3], `instruction`, `proprio` float32[P].

    Raises UserError for whatever is missing or of another shape. Nothing is made up.
    """
    images = sent.get("images") or {}
    observation: dict[str, Any] = {}
    for ours in metadata["cameras"]:
        theirs = benchmark.cameras[ours]
        if theirs not in images:
            raise UserError(f"no image {theirs!r} in the observation: it has {sorted(images)}")
        image = np.asarray(images[theirs])
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise UserError(f"image {theirs!r} is {image.dtype}{list(image.shape)}, not uint8[H, W, 3]")
        observation[ours] = image
    observation["instruction"] = sent.get("task_description")
    if not isinstance(observation["instruction"], str) or not observation["instruction"]:
        raise UserError(f"task_description is {observation['instruction']!r}, not an instruction")
    if metadata["proprio_dim"]:
        observation["proprio"] = _proprio(benchmark, metadata["proprio_dim"], sent)
    return observation


def _proprio(benchmark: Benchmark, size: int, sent: Mapping[str, Any]) -> np.ndarray:
    state = np.asarray(sent.get(benchmark.state, ()), np.float32)
    if state.shape != (size,) or not np.isfinite(state).all():
        raise UserError(
            f"{benchmark.state!r} in the observation is {list(state.shape)}, the policy takes {size} finite numbers"
        )
    return state


def alike(observations: Sequence[Mapping[str, Any]]) -> list[list[int]]:
    """Rows whose images have the same sizes, and so can be one batch."""
    groups: dict[tuple, list[int]] = {}
    for row, one in enumerate(observations):
        shapes = tuple(np.shape(value) for value in one.values())
        groups.setdefault(shapes, []).append(row)
    return list(groups.values())


def stacked(observations: Sequence[Mapping[str, Any]], size: int) -> dict[str, Any]:
    """Observations of one shape as a batch of `size`; the last is repeated where there are fewer."""
    padded = [*observations, *[observations[-1]] * (size - len(observations))]
    words = [one["instruction"] for one in padded]
    arrays = {name: np.stack([one[name] for one in padded]) for name in padded[0] if name != "instruction"}
    return {**arrays, "instruction": words}


def translated(benchmark: Benchmark, gripper: str | None, actions: np.ndarray) -> np.ndarray:
    """float32[..., A] of the policy in the benchmark's gripper convention.

    Raises UserError where a number is not finite.
    """
    if not np.isfinite(actions).all():
        raise UserError("the policy gave an action that is not finite; nothing is sent")
    actions = np.array(actions, np.float32)
    if benchmark.gripper is not None:
        openness = np.clip(GRIPPERS[gripper][0](actions[..., -1]), 0, 1)
        actions[..., -1] = GRIPPERS[benchmark.gripper][1](openness)
    return actions
