"""Stage 2 in its variants, through stage 3 to a policy: image tokens, features of a frozen tower, shared rows,
labels made on the way."""

import json
import pathlib
import types

import jax
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, policy, sharding, trained

GOLD_VISION = pathlib.Path(__file__).parent / "models" / "gold_vision"
BASIS = {"data.image_size": 32}
SIGLIP = {"model.image": "features", "encoder.path": str(GOLD_VISION / "siglip"), "data.image_size": 24}


@pytest.fixture(scope="module")
def made(tiny_run, tabletop_dataset):
    """Folders of a tiny LAQ, its labels and a tiny image tokenizer."""
    names = {"laq": "train_laq", "latents": "label_latents", "tokenizer": "train_tokenizer"}
    folders = {key: str(tiny_run(name)) for key, name in names.items()}
    return types.SimpleNamespace(data={"data.directory": str(tabletop_dataset)}, **folders)


def tokens(made):
    return BASIS | {"model.image": "tokens", "encoder.path": made.tokenizer}


VARIANTS = {
    "tokens": tokens,
    "features of a tower": lambda made: SIGLIP,
    "features of a tokenizer": lambda made: tokens(made) | {"model.image": "features", "encoder.pool": 2},
}


SLOW = ("features of a tower", "features of a tokenizer")
RUNS = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in VARIANTS]


@pytest.fixture(scope="module", params=RUNS)
def run(request, run_program, made, tmp_path_factory):
    """A finished stage 2 and the stage 3 after it; with a tower the former was stopped half-way."""
    root = tmp_path_factory.mktemp("run")
    changes = made.data | {"data.latents": made.latents} | VARIANTS[request.param](made)
    if request.param == "features of a tower":
        run_program("pretrain_vlm", root / "vlm", num_steps=2, **changes)
    run_program("pretrain_vlm", root / "vlm", **changes)
    run_program("finetune", root / "finetune", vlm=str(root / "vlm"), **made.data)
    return types.SimpleNamespace(name=request.param, vlm=root / "vlm", finetune=root / "finetune", changes=changes)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def losses(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row["loss"] for row in rows if row["split"] == "train"}


def test_it_is_judged_on_held_out_steps(run):
    found = summary(run.vlm)
    assert found["held_out_steps"] > 0 and np.isfinite(found["code_loss"])
    assert all(0 <= found[f"{name}_accuracy"] <= 1 for name in ("code", "majority", "blank"))


def test_the_policy_needs_its_folder_only_and_sees_the_image(run):
    """The frozen encoder is in it."""
    served = policy.Policy.from_checkpoint(run.finetune)
    random = np.random.default_rng(0)
    actions = [
        served.infer({"image": random.integers(0, 256, (48, 48, 3), np.uint8), "instruction": "push the red block"})
        for _ in range(2)
    ]
    first, second = (one["actions"] for one in actions)
    assert first.shape == (4, 2) and np.isfinite(first).all() and not np.array_equal(first, second)


def test_the_encoder_in_the_checkpoint_is_the_one_that_was_given(run, made):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    planner, state = trained.load_planner(run.vlm, mesh)
    frozen = state.variables["frozen"]["image_encoder"]
    if planner.encoder.kind == "tokenizer":
        expected = trained.load_tokenizer(made.tokenizer, mesh).variables
    else:
        from lapa_jax.convert import hugging_face

        expected = hugging_face.load_tower(GOLD_VISION / "siglip")[1]
    jax.tree.map(np.testing.assert_array_equal, frozen, expected)


def test_frozen_networks_are_not_trained(run):
    """Neither in stage 2 nor in stage 3."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    planner, state = trained.load_planner(run.vlm, mesh)
    stored = checkpoints.ocp.load_checkpointables(checkpoints.resolve(run.finetune), {"state": None})["state"]
    names = {name: one for name, one in checkpoints.flatten(stored["variables"]).items()}
    ours = checkpoints.flatten(state.variables)
    assert names.keys() == ours.keys() and all(np.array_equal(names[key], ours[key]) for key in ours)
    assert not any("frozen" in name for name in checkpoints.flatten(state.params))


@pytest.fixture(scope="module")
def packed(run_program, made, tmp_path_factory):
    """Stage 2 on shared rows, straight and stopped half-way."""
    root = tmp_path_factory.mktemp("packed")
    changes = made.data | {"data.latents": made.latents} | tokens(made)
    changes |= {"data.packed": True, "data.row_length": 96, "log_every": 1}
    run_program("pretrain_vlm", root / "straight", **changes)
    run_program("pretrain_vlm", root / "stopped", num_steps=2, **changes)
    run_program("pretrain_vlm", root / "stopped", **changes)
    return root


def test_a_packed_run_resumes_exactly(packed):
    straight, stopped = losses(packed / "straight"), losses(packed / "stopped")
    assert straight == stopped and len(straight) == 4
    rows = map(json.loads, (packed / "straight" / "metrics.jsonl").read_text().splitlines())
    assert all(row["filled"] > 0.7 for row in rows if row["split"] == "train")


@pytest.mark.slow
def test_labels_made_on_the_way_are_those_on_disk(run_program, made, tmp_path):
    """The same codes, the same losses; for the first step, with the same weights and order."""
    common = made.data | {"data.blank_instruction_rate": 0.0}
    run_program("pretrain_vlm", tmp_path / "disk", **common, **{"data.latents": made.latents})
    run_program("pretrain_vlm", tmp_path / "way", **common, **{"data.laq": made.laq})
    disk, way = summary(tmp_path / "disk"), summary(tmp_path / "way")
    first, second = losses(tmp_path / "disk"), losses(tmp_path / "way")
    np.testing.assert_allclose(list(first.values()), list(second.values()), rtol=1e-5)
    assert disk["code_accuracy"] == way["code_accuracy"] and disk["held_out_steps"] == way["held_out_steps"]
    np.testing.assert_allclose(disk["code_loss"], way["code_loss"], rtol=1e-5)


@pytest.mark.parametrize("run", ["tokens", pytest.param(SLOW[-1], marks=pytest.mark.slow)], indirect=True)
def test_encoded_frames_on_disk_train_alike(run, run_program, made, tmp_path):
    """Ids exactly; features as far as they were stored."""
    changes, ids = run.changes, run.name == "tokens"
    choices = {} if ids else {"features": True, "pool": 2, "dtype": "float32"}
    run_program(
        "encode_frames", tmp_path / "encoded", encoder=made.tokenizer, **made.data, **choices,
        **{"data.image_size": 32},
    )  # fmt: skip
    run_program("pretrain_vlm", tmp_path / "disk", **changes, **{"data.encoded": str(tmp_path / "encoded")})
    way, disk = losses(run.vlm), losses(tmp_path / "disk")
    np.testing.assert_allclose(list(way.values()), list(disk.values()), rtol=1e-6 if ids else 1e-4)
    assert summary(run.vlm)["code_accuracy"] == summary(tmp_path / "disk")["code_accuracy"]
    other = changes | {"data.encoded": str(tmp_path / "encoded"), "data.image_size": 64}
    with pytest.raises(errors.UserError, match="encode these into another folder"):
        run_program("pretrain_vlm", tmp_path / "other", **other)


@pytest.mark.slow
def test_frames_are_resized_once_in_stage_3_too(run_program, made, tmp_path):
    changes = SIGLIP | {"encoder.resize": "official", "data.decode_once": False, "num_steps": 0}
    run_program("pretrain_vlm", tmp_path / "vlm", **made.data, **{"data.latents": made.latents}, **changes)
    with pytest.raises(errors.UserError, match="encoder.resize=official.*decode_once=False"):
        run_program("finetune", tmp_path / "finetune", vlm=str(tmp_path / "vlm"), **made.data)
    once = {"data.decode_once": False}
    run_program("finetune", tmp_path / "finetune", vlm=str(tmp_path / "vlm"), **made.data, **once)
    assert summary(tmp_path / "finetune")["updates"] == 4


MISTAKES = {
    "no encoder": ({"model.image": "tokens"}, "needs a frozen encoder"),
    "an encoder for the stem": ({"encoder.path": "x"}, "the stem sees pixels"),
    "a tower for tokens": (SIGLIP | {"model.image": "tokens"}, "ids are wanted"),
    "an image that does not fit": (SIGLIP | {"data.image_size": 30}, "multiple of 4"),
    "two kinds of labels": ({"data.laq": "x", "data.latents": "x"}, "which latent actions"),
    "a table that is too small": ({"model.vocabs.latent": 3}, "vocabs.latent=3 is less than the 8"),
    "rows without length": ({"data.packed": True}, "row_length"),
    "a short row": ({"data.row_length": 9}, "places and a row has 9"),
    "a weight for nothing": ({"loss_weights.text": 0.1}, "no text to predict"),
    "frames resized twice": (
        SIGLIP | {"encoder.resize": "official", "data.decode_once": True}, "encoder.resize=official"
    ),
    "frames that are encoded for pixels": ({"data.encoded": "x"}, "the stem sees pixels"),
    "no such layout": ({"layout": "messy"}, "no layout 'messy'"),
    "pooling that does not divide": (SIGLIP | {"encoder.pool": 4}, "pool=4 does not divide a grid of 6x6"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_does_not_fit_is_named(name, run_program, made, tmp_path):
    changes, message = MISTAKES[name]
    changes = made.data | {"data.latents": made.latents} | changes
    with pytest.raises(errors.UserError, match=message) as caught:
        run_program("pretrain_vlm", tmp_path / "run", **changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_heads_run_where_there_is_something_to_predict(made, load_config):
    """Loss and gradients are those of logits at all places."""
    import vlm_parts

    from lapa_jax import losses as losses_lib
    from lapa_jax.data import sources

    config = load_config("pretrain_vlm", "tiny", **made.data, **{"data.latents": made.latents})
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with config.unlocked():
        parts = vlm_parts.prepare(config, sources.open_mixture(config.data, "train"), mesh)
    batch = next(vlm_parts.stream(config, sources.open_mixture(config.data, "train"), parts))
    params = parts.planner.init_fn()(jax.random.key(0))["params"]

    def everywhere(params):
        done = parts.task.completed({}, batch)
        hidden = parts.planner.model.apply({"params": params}, done.tokens, done.image, done.text)
        logits = {"latent": parts.planner.model.apply({"params": params}, hidden, method="logits")}
        targets = done.targets.ids, done.targets.kinds, done.counts
        return losses_lib.stream_cross_entropy(logits, *targets, {"latent": 1.0})[0]

    one, other = (
        jax.jit(jax.value_and_grad(f))(params)
        for f in (everywhere, lambda params: parts.task.loss(params, {}, batch)[0])
    )
    np.testing.assert_allclose(one[0], other[0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), one[1], other[1])
