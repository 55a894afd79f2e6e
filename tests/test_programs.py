"""The five programs at their tiny size, one after the other, on 8 devices; each is run once and read often."""

import json
import types

import numpy as np
import pytest

from lapa_jax import checkpoints, policy
from lapa_jax.data import latents, rlds

TRAINED = ("laq", "vlm", "finetune", "scratch")


@pytest.fixture(scope="module")
def stages(run_program, tabletop_dataset, tmp_path_factory):
    """name -> (program, workdir, changes of its tiny config)."""
    root, data = tmp_path_factory.mktemp("runs"), {"data.directory": str(tabletop_dataset)}
    folders = {name: root / name for name in ("laq", "latents", "vlm", "finetune", "scratch", "evaluation")}
    planner = data | {"vlm": str(folders["vlm"])}
    policies = {"policies.lapa": str(folders["finetune"]), "policies.scratch": str(folders["scratch"])}
    changes = {
        "laq": ("train_laq", data),
        "latents": ("label_latents", {"laq": str(folders["laq"])}),
        "vlm": ("pretrain_vlm", data | {"data.latents": str(folders["latents"])}),
        "finetune": ("finetune", planner),
        "scratch": ("finetune", planner | {"scratch": True}),
        "evaluation": ("evaluate", policies),
    }
    return {name: (program, folders[name], change) for name, (program, change) in changes.items()}


@pytest.fixture(scope="module")
def runs(stages, run_program):
    """Folders of finished runs. The trainings are stopped half-way and started again."""
    for name, (program, workdir, changes) in stages.items():
        if name in ("laq", "vlm"):
            run_program(program, workdir, num_steps=2, **changes)
        run_program(program, workdir, **changes)
    return types.SimpleNamespace(**{name: workdir for name, (_, workdir, _) in stages.items()})


def summary(folder):
    def no_nan(text):
        raise AssertionError(f"{folder}/summary.json holds {text}")

    return json.loads((folder / "summary.json").read_text(), parse_constant=no_nan)


def rows(folder, split="train"):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["split"] == split]


def params(folder):
    """Stored parameters by path."""
    state = checkpoints.ocp.load_checkpointables(checkpoints.resolve(folder), {"state": None})["state"]
    return {k: np.asarray(v) for k, v in checkpoints.flatten(state["params"]).items()}


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_leaves_all_that_is_promised(runs, name):
    folder = getattr(runs, name)
    for path in ("config.json", "summary.json", "metrics.jsonl", "checkpoints/4/state"):
        assert (folder / path).exists(), path
    assert list((folder / "tensorboard").glob("events*"))
    steps = [row["step"] for row in rows(folder)]
    # A run that was stopped logs the first step after it went on.
    assert steps == ([1, 2, 3, 4] if name in ("laq", "vlm") else [1, 2, 4])
    assert all(np.isfinite(row["loss"]) and row["learning_rate"] >= 0 for row in rows(folder))
    config = json.loads((folder / "config.json").read_text())
    assert config == json.loads(json.dumps(checkpoints.load_json(folder, "config")))


def test_the_codebook_is_judged_on_held_out_pairs(runs):
    found = summary(runs.laq)
    assert {"codes_used", "num_codes", "usage", "perplexity", "mse", "copy_mse", "improvement"} <= set(found)
    np.testing.assert_allclose(sum(found["usage"]), 1.0, rtol=1e-5)
    with np.load(runs.laq / "gallery.npz") as gallery:
        assert gallery["frame"].shape == gallery["reconstruction"].shape == (8, 64, 64, 3)


def test_every_pair_is_labelled(runs, tabletop_dataset):
    for split in ("train", "val"):
        video = rlds.open_episodes(tabletop_dataset, split)
        labels = latents.open_latents(runs.latents / split, video)
        assert [len(labels.codes(e)) for e in range(len(labels))] == list(video.lengths - labels.gap)
        assert labels.provenance.checkpoint["step"] == 4
        assert summary(runs.latents / split)["pairs"] == int((video.lengths - labels.gap).sum())


def test_prediction_is_judged_beside_its_baselines(runs):
    found = summary(runs.vlm)
    assert all(0 <= found[f"{name}_accuracy"] <= 1 for name in ("code", "majority", "blank"))
    assert found["held_out_steps"] > 0 and rows(runs.vlm, "val")


def test_finetuning_keeps_the_pretrained_planner(runs):
    """The same network from scratch starts elsewhere."""
    pretrained, lapa, scratch = (params(f) for f in (runs.vlm, runs.finetune, runs.scratch))
    assert lapa.keys() == scratch.keys() and any(key.startswith("action_head.") for key in lapa)
    for key, value in pretrained.items():
        np.testing.assert_array_equal(lapa[f"planner.{key}"], value, err_msg=key)
    key = "body.layers.attention.wq.kernel"
    assert np.abs(scratch[f"planner.{key}"] - pretrained[key]).mean() > 1e-3
    assert summary(runs.finetune)["updates"] == 4 and summary(runs.finetune)["episodes"] == 2


def test_policies_are_rolled_out(runs):
    results = json.loads((runs.evaluation / "results.json").read_text())
    assert set(results["policies"]) == {"lapa", "scratch", "expert", "random"}
    trials = {name: tally["all"]["trials"] for name, tally in results["policies"].items()}
    assert len(set(trials.values())) == 1 and results["episodes"] == trials["lapa"] >= 4
    assert all(0 <= t["all"]["successes"] <= t["all"]["trials"] for t in results["policies"].values())
    assert results["policies"]["expert"]["all"]["successes"] > 0


def test_a_finished_policy_answers(runs):
    image = np.zeros((64, 64, 3), np.uint8)
    served = policy.Policy.from_checkpoint(runs.finetune)
    actions = served.infer({"image": image, "instruction": "push the red block left"})["actions"]
    assert actions.shape == (4, 2) and np.isfinite(actions).all()


@pytest.mark.parametrize("name", ["laq", "latents", "vlm", "finetune", "evaluation"])
def test_a_finished_stage_is_not_run_again(runs, stages, run_program, programs, monkeypatch, name):
    program, workdir, changes = stages[name]
    watched = [p for p in workdir.rglob("*") if p.is_file() and p.suffix in ("", ".array_record")]
    watched = [p for p in watched if "tensorboard" not in p.parts]
    before = {p: p.stat().st_mtime_ns for p in watched}
    lines = [row["step"] for row in rows(workdir)] if (workdir / "metrics.jsonl").exists() else None

    def never(*_, **__):
        raise AssertionError("work was done again")

    if program == "evaluate":
        monkeypatch.setattr(programs[program], "roll_out", never)
    elif program != "label_latents":
        monkeypatch.setattr(programs[program].training, "make_train_step", lambda *_, **__: never)
    run_program(program, workdir, **changes)
    assert {p: p.stat().st_mtime_ns for p in watched} == before
    if lines is not None:
        assert [row["step"] for row in rows(workdir)] == lines


@pytest.fixture(scope="module")
def blind_dataset(tabletop_recipe, tmp_path_factory):
    """The same episodes with every action replaced by NaN, made by the real builder."""
    import dataclasses
    import sys

    import build
    import fake_tabletop
    from fake_tabletop import expert

    class Env(fake_tabletop.FakeEnv):
        def step(self, action):
            return super().step(np.zeros_like(action))

    class Expert(expert.Expert):
        def action(self, env, rng):
            return np.full_like(super().action(env, rng), np.nan)

    blind = types.ModuleType("blind_tabletop")
    blind.make, blind.__path__ = Env, []
    blind.expert = types.ModuleType("blind_tabletop.expert")
    blind.expert.Expert = Expert
    sys.modules |= {"blind_tabletop": blind, "blind_tabletop.expert": blind.expert}
    out = tmp_path_factory.mktemp("blind")
    build.build(out, dataclasses.replace(tabletop_recipe, environment="blind_tabletop"), num_workers=0)
    del sys.modules["blind_tabletop"], sys.modules["blind_tabletop.expert"]
    return out


def test_stages_1_and_2_cannot_see_actions(runs, stages, run_program, blind_dataset, tmp_path):
    """Trained on episodes without actions they are, bit by bit, the same."""
    robot = rlds.open_episodes(blind_dataset, "train", view="robot")
    assert all(np.isnan(actions).all() for actions in robot["action"])
    for name in ("laq", "vlm"):
        program, _, changes = stages[name]
        workdir = tmp_path / name
        run_program(program, workdir, **changes | {"data.directory": str(blind_dataset)})
        theirs, ours = params(workdir), params(getattr(runs, name))
        assert theirs.keys() == ours.keys()
        for key in ours:
            np.testing.assert_array_equal(theirs[key], ours[key], err_msg=f"{name}: {key}")
        losses = {row["step"]: row["loss"] for row in rows(getattr(runs, name))}
        assert all(losses[row["step"]] == row["loss"] for row in rows(workdir))
