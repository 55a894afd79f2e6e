"""Stage 1 with each of its options, by the program that a person launches, at toy size."""

import json
import pathlib

import jax
import numpy as np
import pytest

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import hugging_face
from lapa_jax.models import laq

TOWER = str(pathlib.Path(__file__).parent / "models" / "gold_vision" / "dinov2")
TRANSFORMER = {
    "model.backbone": "transformer",
    "model.backbone_args": dict(
        width=16, depth_spatial=1, depth_temporal=1, num_heads=2, head_dim=8, patch_size=16, image_size=64,
        reader="queries", legacy=False, remat=True, dtype="bfloat16",
    ),
}
RECIPES = {
    "features": {"model.target": "features", "tower.path": TOWER, "model.backbone_args.patch_size": 1},
    "perceptual": {"loss.perceptual": 0.1, "tower.path": TOWER},
    "labels": {"labels.weight": 0.5, "labels.episodes": 2, "labels.batch_size": 8},
    "continuous": {"model.quantizer": "kl", "model.code_dim": 3},
    "ema": {"model.quantizer": "vq_ema", "model.code_dim": 3, "model.backbone_args.dtype": "bfloat16"},
    "official": {"model.quantizer": "nsvq_official", "model.code_dim": 3},
    "five tokens in bfloat16": TRANSFORMER | {"model.quantizer": "nsvq", "model.code_length": 5},
}


@pytest.fixture(scope="module")
def data(tabletop_dataset):
    return {"data.directory": str(tabletop_dataset)}


def rows(folder, split="train"):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["split"] == split]


def load(folder):
    return trained.load_laq(folder, sharding.make_mesh(devices=jax.devices()[:1]))


RESUMED = ("features", "labels")
LONG = ("features", "perceptual", "ema", "official", "five tokens in bfloat16")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in RECIPES])
def test_recipe_trains_resumes_and_can_be_used(name, data, run_program, tmp_path):
    changes = data | RECIPES[name]
    if name in RESUMED:
        run_program("train_laq", tmp_path, num_steps=2, **changes)
    run_program("train_laq", tmp_path, **changes)
    assert [row["step"] for row in rows(tmp_path)][-1] == 4
    assert all(np.isfinite(row["loss"]) for row in rows(tmp_path))
    model, state, config = load(tmp_path)
    if name == "labels":
        assert all(row["action_mse"] > 0 for row in rows(tmp_path)) and config["model"]["action_dim"] == 2
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(state.params))
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    variables = {"params": state.params, **state.variables}
    latent = model.apply(variables, *frames, method="encode")
    assert (latent.codes is None) == (name == "continuous")
    decoded = model.apply(variables, frames[0], latent.codewords, method="decode")
    if name == "features":  # the tower is kept as it was loaded
        _, weights = hugging_face.load_tower(TOWER)
        jax.tree.map(np.testing.assert_array_equal, state.variables[laq.FROZEN]["tower"], weights)
    assert decoded.shape == model.apply(variables, frames[0], method="view").shape
    assert np.isfinite(decoded).all()


@pytest.mark.slow
def test_codes_of_the_task_take_the_place_of_the_instruction(data, run_program, tmp_path):
    phases = data | {"model.scene_length": 2, "model.quantizer": "nsvq", "model.code_dim": 3}
    run_program("train_laq", tmp_path / "scene", **phases, **{"model.phase": "scene"})
    scene = load(tmp_path / "scene")[1]
    task = phases | {"model.phase": "task", "earlier": str(tmp_path / "scene")}
    run_program("train_laq", tmp_path / "task", **task)
    model, state, _ = load(tmp_path / "task")
    frozen = ("quantize_scene", "text_tokens")
    for name in frozen:
        jax.tree.map(np.testing.assert_array_equal, state.params[name], scene.params[name])
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), state.params["body"], scene.params["body"])
    assert max(jax.tree.leaves(moved)) > 1e-5
    frames = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64, 3), dtype=np.uint8)
    variables = {"params": state.params, **state.variables}
    assert model.apply(variables, *frames, method="encode").codes.shape == (3, 1)
    summary = json.loads((tmp_path / "task" / "summary.json").read_text())
    assert summary["num_codes"] == 8
    with pytest.raises(errors.UserError, match="model.scene_length is 1, and was 2"):
        run_program("train_laq", tmp_path / "other", **task | {"model.scene_length": 1})


def test_labels_are_of_one_dataset(data, run_program, tmp_path):
    mixture = {"data.mixture": f"{data['data.directory']}=1"}
    with pytest.raises(errors.UserError, match="one dataset"):
        run_program("train_laq", tmp_path, **data, **RECIPES["labels"], **mixture)


MISTAKES = [
    ({"model.target": "features"}, "needs a tower: give --config.tower.path"),
    ({"loss.perceptual": 1.0}, "loss.perceptual needs a tower"),
    ({"tower.path": "{nowhere}", "model.target": "features"}, "nowhere"),
    ({"model.phase": "task"}, "give --config.earlier"),
    ({"model.phase": "scene"}, "scene_length=0: it must be 1 or more"),
    ({"model.phase": "both"}, "no model.phase 'both'; choose one of"),
    ({"earlier": "{nowhere}"}, "config.earlier is for"),
    ({"model.target": "dreams"}, "no model.target 'dreams'"),
    ({"model.quantizers.fsq.levels": (3, 2)}, "multiply to model.num_codes=8"),
]


@pytest.mark.parametrize("changes, says", MISTAKES)
def test_options_that_do_not_fit_are_named(changes, says, data, run_program, tmp_path):
    nowhere = str(tmp_path / "nowhere")
    changes = {k: nowhere if v == "{nowhere}" else v for k, v in changes.items()}
    with pytest.raises(errors.UserError, match=says):
        run_program("train_laq", tmp_path / "run", **data, **changes)
