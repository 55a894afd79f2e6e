"""Drive the robot: success of policies over seeded closed-loop episodes, with 95 % Wilson intervals.

    python experiments/evaluate.py --config=experiments/configs/evaluate.py:demo --workdir=runs/demo/evaluation \
        --config.policies.lapa=runs/demo/finetune
"""

import functools
import json
import pathlib
import time
from typing import Any

import launch

from lapa_jax import checkpoints, chunking, errors
from lapa_jax.evaluation import gifs, intervals, rollouts
from lapa_jax.policy import Policy

CONFIG, WORKDIR = launch.define("evaluate")


def roll_out(name: str, act: rollouts.Act, config: Any) -> list[rollouts.Episode]:
    """All episodes of one policy, the same seeds for each."""
    names, episodes = rollouts.families(config.env), []
    chunks = functools.partial(chunking.make, config.execute, config.ensemble)
    for family in names:
        clock = time.perf_counter()
        done = rollouts.run_family(
            act, config.env, family, -(-config.episodes // len(names)), chunks, split=config.env_split
        )
        episodes += done
        hits = sum(e.success for e in done)
        print(f"[evaluate] {name} {family}: {hits}/{len(done)} in {time.perf_counter() - clock:.1f} s", flush=True)
    return episodes


def act_of(name: str, config: Any) -> rollouts.Act:
    """The scripted bounds by name, anything else from its checkpoint."""
    if name == "expert":
        return rollouts.expert_act(config.env)
    if name == "random":
        return rollouts.random_act()
    return rollouts.policy_act(Policy.from_checkpoint(config.policies[name]))


def origin(name: str, config: Any) -> str:
    """What a policy's results depend on: its checkpoint, for the trained ones."""
    return name if name in config.bounds else str(checkpoints.resolve(config.policies[name]))


def finished(path: pathlib.Path, source: str) -> dict[str, Any] | None:
    """Results already there of the same policy, so that it is not rolled out again."""
    stored = json.loads(path.read_text()) if path.exists() else {}
    return stored if stored.get("source") == source else None


def count(episodes: list[rollouts.Episode]) -> dict[str, int]:
    return {"successes": sum(e.success for e in episodes), "trials": len(episodes)}


def tally(episodes: list[rollouts.Episode]) -> dict[str, Any]:
    """Counts by family and in all."""
    names = list(dict.fromkeys(e.family for e in episodes))
    by_family = {n: count([e for e in episodes if e.family == n]) for n in names}
    return {"families": by_family, "all": count(episodes)}


def film(folder: pathlib.Path, name: str, episodes: list[rollouts.Episode]) -> dict[str, Any]:
    """A GIF of a success and of a failure, where there was one; the longest success shows most."""
    shown = {}
    for outcome, wanted in (("success", True), ("failure", False)):
        kept = [e for e in episodes if e.success == wanted and e.frames is not None]
        if kept:
            best = max(kept, key=lambda e: e.length)
            gifs.write_gif(folder / f"{outcome}.gif", best.frames, caption=best.instruction)
            shown[outcome] = {"file": f"{outcome}.gif", "instruction": best.instruction, "policy": name}
    return shown


def main(_: Any) -> None:
    config, folder = CONFIG.value, pathlib.Path(WORKDIR.value)
    trained = {name: path for name, path in config.policies.items() if path is not None}
    if not trained:
        raise errors.UserError("which policy? give --config.policies.lapa=FOLDER of a finetune run")
    launch.start(config)
    for path in trained.values():
        checkpoints.resolve(path)
    checkpoints.claim(WORKDIR.value, config.to_dict())
    results: dict[str, Any] = {"split": config.env_split, "policies": {}, "gifs": {}}
    for name in (*sorted(trained), *config.bounds):
        path, source = folder / f"{name}.json", origin(name, config)
        stored = finished(path, source)
        if stored is None:
            episodes = roll_out(name, act_of(name, config), config)
            films = film(folder, name, episodes) if name == "lapa" else {}
            stored = {"source": source, "tally": tally(episodes), "gifs": films}
            path.write_text(json.dumps(stored, indent=1) + "\n")
        results["policies"][name] = stored["tally"]
        results["gifs"] |= stored["gifs"]
    results["episodes"] = next(iter(results["policies"].values()))["all"]["trials"]
    (folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(intervals.success_table(results))


if __name__ == "__main__":
    launch.run(main)
