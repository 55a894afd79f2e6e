"""Is this LAQ good? Measures on held-out episodes, lines that pass or fail, judge.json and judge.html.

    python experiments/evaluate_laq.py --config=experiments/configs/evaluate_laq.py --workdir=runs/demo/judge \
        --config.laq=runs/demo/laq
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import launch

from lapa_jax import checkpoints, errors, sharding, trained
from lapa_jax.data import sources
from lapa_jax.evaluation.judge import court, lpips, pairs, pictures, report, subject, verdicts

CONFIG, WORKDIR = launch.define("evaluate_laq")

FEWEST = 10  # pairs
_OF_A_DATASET = ("directory", "mixture", "name", "rate", "image_key")


def data_of(trained_on: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The LAQ's own data keys with those that are chosen; what describes its dataset goes when that does."""
    given = {key: value for key, value in chosen.items() if value is not None}
    own = {**trained_on, **({key: None for key in _OF_A_DATASET} if "directory" in given else {})}
    return own | given


def facts(config: Any, model: Any, state: Any, judged: subject.Subject, data: Mapping[str, Any]) -> dict[str, str]:
    """What was judged, in words; a split that the LAQ was trained on is called so."""
    seen = config.data.directory is None and config.split == data["train_split"]
    codes = "continuous" if judged.num_codes is None else f"{judged.num_codes} codes"
    space = "pixels" if judged.pixels else "features"
    source = data["mixture"] or data["directory"]
    return {
        "LAQ": f"{config.laq}, step {int(state.step)}",
        "Latent action": f"{judged.code_length} x {codes} ({model.quantizer}), decoded to {space}",
        "Data": f"{source}, {data['gap']} s apart, seed {config.seed}",
        "Split": f"{config.split}, which it was TRAINED ON" if seen else config.split,
    }


def main(_: Any) -> None:
    config = CONFIG.value
    if config.laq is None:
        raise errors.UserError("which LAQ? give --config.laq=FOLDER of a train_laq run")
    if config.pairs < FEWEST:
        raise errors.UserError(f"pairs={config.pairs} tell nothing; give {FEWEST} or more")
    launch.start(config, share="nothing")
    mesh = sharding.make_mesh(devices=jax.local_devices())
    with jax.set_mesh(mesh):
        model, state, run = trained.load_laq(config.laq, mesh)  # 1 the quantizer, from its own checkpoint
        checkpoints.claim(WORKDIR.value, config.to_dict(), (*checkpoints.FREE, "thresholds", "skip"))
        weights = None if config.lpips is None else lpips.load(config.lpips)
        data = data_of(run["data"], config.data)  # 2 held-out pairs, as many from each dataset
        robot = sources.open_mixture(data, config.split, "robot")
        judged = subject.Subject.of(model, state)
        count = -(-config.pairs // len(robot.members))
        cases = {}
        for name, member in zip(pairs.names(robot), robot.members, strict=True):
            sampled = pairs.Pairs.sample(name, member, data["gap"], count, data["image_size"], config.seed)
            cases[name] = court.Case.open(judged, sampled, config.seed, weights)
            print(f"[judge] {name}: {len(sampled)} pairs", flush=True)
        results = {  # 3 all measures
            "datasets": {name: case.results() for name, case in cases.items()},
            "across": court.across(cases, config.seed),
        }
        shown = {name: pictures.take(case) for name, case in cases.items()}
    found = verdicts.verdicts(results, config.thresholds, config.skip)  # 4 which of them are good enough
    about = {"facts": facts(config, model, state, judged, data), "thresholds": config.thresholds.to_dict()}
    if jax.process_index() == 0:
        path = report.write(pathlib.Path(WORKDIR.value), about, results, found, shown)
        print(verdicts.table(found))
        print(f"report: {path.resolve()}")


if __name__ == "__main__":
    launch.run(main)
