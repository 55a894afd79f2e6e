"""The only file that imports Orbax: one folder a run, enough to resume, to evaluate and to serve.

A checkpoint holds `state` (params, variables, optimizer, step), `loader` (the stream's position),
`config` (resolved) and `assets` (tokenizer, normalisation statistics, whatever the policy needs).
"""

import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from lapa_jax import endings, errors, hosts, selection, sharding
from lapa_jax.training import TrainState

FREE = (
    "num_steps", "log_every", "checkpoint", "mesh", "distributed",
    "data.cache", "data.num_threads", "data.num_workers", "num_threads", "alarm",
    "profile",
)
"""Config keys that may change when a run is resumed."""

SHARED = 2**20
"""Bytes from which on devices that hold the same array write a part each; small ones are not worth the cutting."""


class Checkpoints:
    """Checkpoints of one run under `<workdir>/checkpoints`; a context manager.

    Args:
        workdir: the run's folder.
        config: resolved config, saved with each checkpoint and compared on resume.
        assets: JSON-able dict saved with each checkpoint.
        every: save every so many steps (the last step is always saved).
        keep_last: how many recent checkpoints stay.
        keep_every: checkpoints at multiples of so many steps stay for good; None: none do.

    Inside, SIGTERM saves at the next step that all processes agree on, and ends the program.

    Raises:
        UserError: the folder belongs to another config, or nothing would be kept.
    """

    def __init__(
        self,
        workdir: str | pathlib.Path,
        config: Mapping[str, Any],
        assets: Mapping[str, Any] | None = None,
        every: int = 500,
        keep_last: int = 2,
        keep_every: int | None = None,
    ) -> None:
        policy = _policy(every, keep_last, keep_every)
        claim(workdir, config)
        self.directory = pathlib.Path(workdir).resolve() / "checkpoints"
        self.config, self.assets, self.every = dict(config), dict(assets or {}), every
        self._stop = endings.Stop()
        context = ocp.Context()
        context.array.saving.min_slice_bytes_for_replica_parallel = SHARED
        self._orbax = ocp.training.Checkpointer(
            self.directory,
            context=context,
            preservation_policy=policy,
            cleanup_tmp_directories=True,
        )

    def __enter__(self) -> "Checkpoints":
        self._stop.__enter__()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._stop.__exit__()
        endings.announce(error)  # as a process that is gone can keep the last save from ending
        self._orbax.close()

    def due(self, step: int) -> bool:
        """Whether a checkpoint is wanted at this step, by the policy or because the program is to end.

        To be asked at every step, by all processes.
        """
        return self._stop.reached(step) or step % self.every == 0

    def latest_step(self) -> int | None:
        return None if self._orbax.latest is None else self._orbax.latest.step

    def save(self, step: int, state: TrainState, loader: Mapping[str, Any]) -> None:
        """Save in the background; a killed save never replaces a good one."""
        parts = dict(state=_parts(state), loader=dict(loader), config=self.config, assets=self.assets)
        kept = {name: part for name, part in parts.items() if part}  # Orbax refuses an empty item
        self._orbax.save_checkpointables_async(step, kept, force=True, overwrite=True)

    def wait(self) -> None:
        """Block until the last save is on disk."""
        self._orbax.wait()

    def leave_if_told(self, step: int) -> None:
        """After the save of this step: ends the program, with exit status 0, if SIGTERM wanted it."""
        if self._stop.reached(step):
            self.wait()
            self._stop.leave(step)

    def restore_or(self, abstract: TrainState, init: Callable[[], TrainState], stream: Any) -> TrainState:
        """The latest state (the stream is moved to where it was), or `init()` in a new run.

        Raises:
            UserError: the checkpoint is of another model (names the first leaf that differs).
        """
        step = self.latest_step()
        if step is None:
            return init()
        _check_shapes(self.directory / str(step), abstract)
        parts = self._orbax.load_checkpointables(step, dict(state=_parts(abstract), loader=None))
        stream.set_state(parts["loader"])
        return abstract.replace(**parts["state"])


def _policy(every: int, keep_last: int, keep_every: int | None) -> Any:
    """Which checkpoints stay."""
    if min(every, keep_last, 1 if keep_every is None else keep_every) < 1:
        raise errors.UserError(
            f"checkpoint.every={every}, keep_last={keep_last}, keep_every={keep_every}: each is 1 or more"
        )
    policies = ocp.training.preservation_policies
    latest = policies.LatestN(keep_last)
    if keep_every is None:
        return latest
    if keep_every % every:
        raise errors.UserError(f"checkpoint.keep_every={keep_every} is no multiple of checkpoint.every={every}")
    return policies.AnyPreservationPolicy([latest, policies.EveryNSteps(keep_every)])


def resolve(path: str | pathlib.Path) -> pathlib.Path:
    """Folder of the latest checkpoint of a run (or the checkpoint itself when it is given).

    Raises:
        UserError: there is none.
    """
    root = pathlib.Path(path).resolve()
    if (root / "state").exists():
        return root
    folder = root / "checkpoints" if (root / "checkpoints").exists() else root
    steps = [p for p in folder.glob("*") if p.name.isdigit() and (p / "state").exists()]
    if not steps:
        raise errors.UserError(f"no checkpoint under {path}: train that stage first, or give the run's folder")
    return max(steps, key=lambda p: int(p.name))


def load_json(path: str | pathlib.Path, name: str) -> dict[str, Any]:
    """`config`, `assets` or `loader` of a checkpoint."""
    folder = resolve(path)
    return ocp.load_checkpointables(folder, {name: None})[name] if (folder / name).exists() else {}


def load_state(path: str | pathlib.Path, abstract: TrainState, averaged: bool = True) -> TrainState:
    """Params, variables and step of a checkpoint, cast and laid out as `abstract` says.

    Where the run kept moving averages of its parameters these are what is read.

    Args:
        abstract: its optimizer state and averages are ignored, and come back as None.
        averaged: False: the parameters themselves, which training would go on from.

    Raises:
        UserError: no checkpoint, or one of another model.
    """
    folder = resolve(path)
    _check_shapes(folder, abstract)
    found = _load(folder, averaged, **{key: getattr(abstract, key) for key in ("step", "params", "variables")})
    return TrainState(found["step"], found["params"], found.get("variables", {}), None)


def _load(folder: pathlib.Path, averaged: bool, params: Any, **parts: Any) -> dict[str, Any]:
    """Those parts of a state, and parameters, averages in the place of those that have one."""
    stored = _flat(ocp.metadata(folder, "state").metadata.get("ema") or {}) if averaged else {}
    means, raw = selection.cut(params, stored.__contains__)
    wanted = {name: part for name, part in dict(ema=means, params=raw, **parts).items() if part != {}}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        loaded = ocp.load_checkpointables(folder, dict(state=wanted))["state"]
    return loaded | {"params": selection.join(*(loaded.get(name, {}) for name in ("ema", "params")))}


def stored_params(path: str | pathlib.Path) -> dict[str, tuple[int, ...]]:
    """Path and shape of each parameter of a checkpoint."""
    stored = _flat(ocp.metadata(resolve(path), "state").metadata["params"])
    return {name: tuple(leaf.shape) for name, leaf in stored.items()}


def load_params(path: str | pathlib.Path, abstract: Any, averaged: bool = True) -> Any:
    """Some parameters of a checkpoint, cast and laid out as `abstract` says; see `load_state`.

    Raises:
        UserError: no checkpoint, or one of them has another shape or is not there.
    """
    stored = stored_params(path)
    for name, leaf in _flat(abstract).items():
        if stored.get(name) != tuple(leaf.shape):
            raise errors.UserError(
                f"checkpoint {path} is of another model: {name} is {stored.get(name, 'absent')} there and "
                f"{tuple(leaf.shape)} in this config"
            )
    return _load(resolve(path), averaged, params=abstract)["params"]


def load_numpy(path: str | pathlib.Path, averaged: bool = True) -> dict[str, Any]:
    """All parameters of a checkpoint as numpy, in their stored dtype: no mesh and no model is needed.

    Args:
        averaged: as in `load_state`.

    Raises:
        UserError: no checkpoint.
    """
    folder = resolve(path)
    stored = ocp.metadata(folder, "state").metadata["params"]
    return _load(folder, averaged, params=jax.tree.map(lambda leaf: np.empty(0, leaf.dtype), stored))["params"]


def merge(loaded: Any, fresh: Any, new: str = "$^") -> Any:
    """`loaded` parameters completed with the leaves of `fresh` whose path matches `new`.

    Strict both ways: a leaf missing from `loaded` that `new` does not name, or one of `loaded` that
    `fresh` lacks, raises UserError.
    """
    have, want = _flat(loaded), _flat(fresh)
    missing = [n for n in want if n not in have and not re.search(new, n)]
    extra = [n for n in have if n not in want]
    if missing or extra:
        raise errors.UserError(
            f"checkpoint and model differ: missing {missing[:3]}, not in the model {extra[:3]}; "
            "use the model config the checkpoint was trained with"
        )
    leaves = [have[n] if n in have and not re.search(new, n) else leaf for n, leaf in want.items()]
    return jax.tree.unflatten(jax.tree.structure(fresh), leaves)


def _parts(state: Any) -> Any:
    """A state as it is stored: averages are there only where a run has them."""
    if not isinstance(state, TrainState):
        return state
    return {name: part for name, part in vars(state).items() if name != "ema" or part is not None}


def _flat(tree: Any) -> dict[str, Any]:
    return {sharding.path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _check_shapes(folder: pathlib.Path, abstract: TrainState) -> None:
    """Name the first parameter whose shape differs, before Orbax fails in its own words."""
    stored = _flat(ocp.metadata(folder, "state").metadata["params"])
    wanted = _flat(abstract.params)
    for name in sorted(stored.keys() | wanted.keys()):
        have = tuple(stored[name].shape) if name in stored else "absent"
        want = tuple(wanted[name].shape) if name in wanted else "absent"
        if have != want:
            raise errors.UserError(
                f"checkpoint {folder} is of another model: {name} is {have} there and {want} in this config; "
                "give the config it was trained with, or another --workdir"
            )


def claim(workdir: str | pathlib.Path, config: Mapping[str, Any], free: tuple[str, ...] = FREE) -> None:
    """Write `<workdir>/config.json`, or check that the one there says the same. All processes have to call it.

    Args:
        free: dotted keys that may differ on resume (a longer run, another logging rate).

    Raises:
        UserError: the folder belongs to another config (names the keys), or not all processes see it.
    """
    path = pathlib.Path(workdir) / "config.json"
    config = json.loads(json.dumps(config))
    if path.exists():
        old = flatten(json.loads(path.read_text()))
        new = flatten(config)
        keys = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
        keys = [k for k in keys if not k.startswith(free)]
        if keys:
            shown = ", ".join(f"{k}: {old.get(k)} there, {new.get(k)} now" for k in keys[:3])
            raise errors.UserError(
                f"workdir {workdir} holds a run of another config ({shown}): give another --workdir, or delete it"
            )
    hosts.wait("compared with config.json")
    if not hosts.number():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(config, indent=1) + "\n")
    hosts.wait("wrote config.json")
    if not path.exists():
        raise errors.UserError(
            f"process {hosts.number()} does not see {path}, which process 0 wrote: --workdir has to be "
            "on storage that all hosts share"
        )


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mapping -> {"a.b": value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, name + ".") if isinstance(value, Mapping) else {name: value})
    return flat
