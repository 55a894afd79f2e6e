"""What the programs share that turn an official checkpoint into a run of ours, and back."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax

from lapa_jax import checkpoints, errors, metrics, training


def check_way(official: str | None, workdir: str | None, run: str | None, out: str | None) -> None:
    """
    Raises:
        UserError: not one of the two ways: in, by --official and --workdir, or out, by --run and --out.
    """
    ways = {"--official and --workdir": (official, workdir), "--run and --out": (run, out)}
    chosen = [way for way, values in ways.items() if all(values)]
    if len(chosen) != 1 or sum(map(bool, sum(ways.values(), ()))) != 2:
        raise errors.UserError(f"give either {' or '.join(ways)}")


def save_run(
    path: str, workdir: str, config: dict[str, Any], mesh: jax.sharding.Mesh,
    make_state: Callable[[], training.TrainState],
) -> None:
    """Make `workdir` a run of that config with one checkpoint, which tells of the official file at `path`.

    Raises:
        UserError: the folder has a checkpoint already.
    """
    assets = {"official": {"file": pathlib.Path(path).name, "size": pathlib.Path(path).stat().st_size}}
    save(workdir, config, assets, mesh, make_state, assets)


def save(
    workdir: str, config: dict[str, Any], assets: dict[str, Any], mesh: jax.sharding.Mesh,
    make_state: Callable[[], training.TrainState], told: dict[str, Any],
) -> None:
    """Make `workdir` a run with one checkpoint, at step 0; its summary says what is `told` and counts parameters.

    Raises:
        UserError: the folder has a checkpoint already.
    """
    with jax.set_mesh(mesh), checkpoints.Checkpoints(workdir, config, assets) as saved:
        if saved.latest_step() is not None:
            raise errors.UserError(f"{workdir} has a checkpoint already: give another --workdir")
        state = make_state()
        saved.save(0, state, {})
        saved.wait()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    metrics.summarise(workdir, {**told, "parameters": count})
