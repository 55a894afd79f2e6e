"""observation -> action: every transform of the input beside its inverse, all from one checkpoint."""

import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import checkpoints, errors, selection, sharding, training
from lapa_jax.actions import task as task_lib

INSTRUCTION, PROPRIO, LAST = "instruction", "proprio", "last_latents"
"""Keys of an observation beside those of its cameras."""


def with_planner(
    state: training.TrainState, vlm_folder: str | pathlib.Path, scratch: bool = False
) -> training.TrainState:
    """`state` with the weights of a pretrained VLM and of its image encoder; what the VLM has not stays fresh.

    Args:
        scratch: take the encoder only, which was no part of the training.

    Raises:
        UserError: the VLM lacks a parameter that cannot begin anew.
    """
    stored = checkpoints.stored_params(vlm_folder)
    have, fresh = selection.cut(state.params["planner"], stored.__contains__)
    names = flax.traverse_util.flatten_dict(fresh, sep="/")
    if strange := [name for name in names if not task_lib.may_be_new(name)]:
        raise errors.UserError(f"{vlm_folder} has no {strange[0]}: it is another VLM than its config says")
    like = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)  # noqa: E731
    abstract = jax.tree.map(like, (have, state.variables))
    step = jax.ShapeDtypeStruct((), jnp.int32, sharding=state.step.sharding)
    loaded = checkpoints.load_state(vlm_folder, training.TrainState(step, *abstract, None))
    state = state.replace(variables=loaded.variables)
    if scratch:
        return state
    return state.replace(params={**state.params, "planner": selection.join(loaded.params, fresh)})


class Policy:
    """A trained policy. Deterministic unless it is given a seed.

        policy = Policy.from_checkpoint("runs/demo/finetune")
        actions = policy.infer({"image": image, "instruction": "push the red cube to the left side"})["actions"]

    Attributes:
        metadata: what a robot has to know: see `describe`.
    """

    def __init__(self, task: task_lib.ActionTask, variables: Any, checkpoint: str = "") -> None:
        self.task, self.variables = task, variables
        self.planner, self.statistics = task.planner, task.statistics
        self.image_size, self.horizon = self.planner.image_size, task.horizon
        self._layout = task.layout
        self.metadata = describe(task, checkpoint)
        self._predict = jax.jit(task.predict)

    @classmethod
    def from_checkpoint(cls, folder: str | pathlib.Path) -> "Policy":
        """The latest checkpoint of a finetune run, on this process's first device.

        Raises:
            UserError: no checkpoint there, or one that is not of a policy.
        """
        given, folder = folder, checkpoints.resolve(folder)  # once: a training run may be saving the next
        assets = checkpoints.load_json(folder, "assets")
        if "statistics" not in assets:
            raise errors.UserError(f"{given} is not a policy: give the folder of a finetune run")
        task = task_lib.ActionTask.from_json(assets)
        mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
        state = checkpoints.load_state(
            folder, training.abstract_state(training.make_init(task.init_fn()), mesh)
        )
        return cls(task, {"params": state.params, **state.variables}, digest(folder))

    def infer(self, observation: Mapping[str, Any], seed: int | None = None) -> dict[str, np.ndarray]:
        """Actions in the dataset's own units.

        Args:
            observation: an image uint8[H, W, 3] under the name of each camera ("image" is the main one),
                `instruction` str, and where the policy reads them `proprio` float[P], in the dataset's units, and
                `last_latents` int[N], the `latents` of the call before (none at the first). Or a batch of B: images
                uint8[B, H, W, 3], a list of B instructions, proprio float[B, P].
            seed: draw an answer, for heads that can (bins, flow); None: the same answer always.

        Returns:
            `actions` float32[horizon, A], or float32[B, horizon, A]; where latents are planned, also `latents`
            int32[N] or int32[B, N].

        Raises:
            UserError: a field that is missing, or of another form; what is not read may be there.
        """
        single, batch = self.batch_of(observation)
        key = None if seed is None else jax.random.key(seed)
        found = {name: np.asarray(one) for name, one in self._predict(self.variables, batch, key).items()}
        return {name: one[0] for name, one in found.items()} if single else found

    def batch_of(self, observation: Mapping[str, Any]) -> tuple[bool, dict[str, np.ndarray]]:
        """Whether it is a single observation, and what the network reads of it.

        Raises:
            UserError: as `infer`.
        """
        task = self.task
        self._check_names(observation)
        images = {camera: checked_image(camera, observation[camera]) for camera in task.cameras}
        single = images[task.cameras[0]].ndim == 3
        images = {camera: image[None] if single else image for camera, image in images.items()}
        words = [observation[INSTRUCTION]] if single else observation[INSTRUCTION]
        rows = len(images[task.cameras[0]])
        for camera, image in images.items():
            if image.ndim != 4 or len(image) != rows:
                raise errors.UserError(f"{camera} is uint8{list(image.shape)} beside {rows} of {task.cameras[0]}")
        if not rows:
            raise errors.UserError("an empty batch has no action: give one observation or more")
        self._check_words(words, rows)
        batch = self.planner.prompts(words, self._layout)
        looks = [[self.planner.resized(one) for one in images[camera]] for camera in task.cameras]
        stacked = np.stack([np.stack(look) for look in looks], axis=1)
        batch["image"] = stacked if len(looks) > 1 else stacked[:, 0]
        if task.proprio is not None:
            given = checked_numbers(PROPRIO, observation[PROPRIO], rows, len(task.proprio.mean), single)
            batch[PROPRIO] = task.proprio.normalise(given)
        if task.history:
            batch[LAST] = self._checked_latents(observation.get(LAST), rows, single)
        return single, batch

    def _check_names(self, observation: Mapping[str, Any]) -> None:
        if not isinstance(observation, Mapping):
            raise errors.UserError(f"an observation is a dict, not a {type(observation).__name__}")
        wanted = (*self.task.cameras, INSTRUCTION, *([PROPRIO] if self.task.proprio else []))
        if missing := [name for name in wanted if name not in observation]:
            raise errors.UserError(f"the observation has no {missing[0]}: this policy reads {', '.join(wanted)}")

    def _check_words(self, words: Sequence[str], rows: int) -> None:
        if isinstance(words, str) or not isinstance(words, Sequence) or len(words) != rows:
            raise errors.UserError(f"{rows} images need as many instructions: give a list of them")
        if strange := [one for one in words if not isinstance(one, str)]:
            raise errors.UserError(f"an instruction is text, not {type(strange[0]).__name__}")

    def _checked_latents(self, given: Any, rows: int, single: bool) -> np.ndarray:
        shape, codes = (rows, self.planner.layout.code_length), self.metadata["num_codes"]
        if given is None:
            return np.full(shape, -1, np.int32)
        found = np.asarray(given)
        found = found[None] if single else found
        if found.shape != shape or found.dtype.kind not in "iu" or found.min() < -1 or found.max() >= codes:
            raise errors.UserError(
                f"{LAST} is {found.dtype}{list(found.shape)}: give the latents of the last answer, int{list(shape)}"
            )
        return found.astype(np.int32)


def checked_image(name: str, given: Any) -> np.ndarray:
    """uint8[..., H, W, 3]. Raises UserError for anything else."""
    image = np.asarray(given)
    if image.dtype != np.uint8 or image.ndim not in (3, 4) or image.shape[-1] != 3:
        raise errors.UserError(f"{name} is {image.dtype}{list(image.shape)}: give uint8[H, W, 3] RGB")
    if 0 in image.shape[-3:]:
        raise errors.UserError(f"{name} is uint8{list(image.shape)}, which has no pixel")
    return image


def checked_numbers(name: str, given: Any, rows: int, size: int, single: bool) -> np.ndarray:
    """float32[rows, size]. Raises UserError for another shape, or numbers that are not finite."""
    found = np.asarray(given)
    found = found[None] if single else found
    if found.shape != (rows, size) or found.dtype.kind not in "fiu":
        shape = [size] if single else [rows, size]
        raise errors.UserError(f"{name} is {found.dtype}{list(np.shape(given))}: give float{shape}")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite
        found = found.astype(np.float32)
    if not np.isfinite(found).all():
        raise errors.UserError(f"{name} has numbers that are not finite")
    return found


def describe(task: task_lib.ActionTask, checkpoint: str = "") -> dict[str, Any]:
    """What a robot, or a client on another machine, has to know of a policy. JSON-able.

    `cameras`, `proprio_dim` and `history` say what an observation holds (`history`: how many steps after a call the
    next is expected, with its `latents`); `horizon`, `action_dim` and `action_space` what comes back.
    """
    return {
        "head": task.options["kind"],
        "horizon": task.horizon,
        "action_dim": task.action_dim,
        "action_space": task.action_space and dict(task.action_space),
        "cameras": list(task.cameras),
        "image_size": task.planner.image_size,
        "proprio_dim": None if task.proprio is None else len(task.proprio.mean),
        "history": task.history,
        "instruction_length": task.layout.tokenizer.length,
        "normalisation": {
            "where": "in the policy: proprio goes in and actions come out in the dataset's units",
            "scheme": task.statistics.scheme,
            **{name: getattr(task.statistics, name).tolist() for name in ("mean", "std", "q01", "q99")},
        },
        "code_length": task.planner.layout.code_length,
        "num_codes": task.planner.model.vocabs["latent"],
        "plans_latents": task.head.plans,
        "checkpoint": checkpoint,
    }


def digest(folder: str | pathlib.Path) -> str:
    """SHA-256 of a checkpoint: of its files' names, sizes and contents; the same for a copy."""
    root, found = checkpoints.resolve(folder), hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        found.update(f"{path.relative_to(root)} {path.stat().st_size}\n".encode())
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()
