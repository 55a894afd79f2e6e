"""The image tokenizer by the program that a person launches, at toy size, on 8 devices."""

import json
import pathlib

import jax
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, sharding, trained
from lapa_jax.data import episodes, sources
from lapa_jax.evaluation import tokenizer_quality
from lapa_jax.models import image_tokens

TOWER = str(pathlib.Path(__file__).parent / "models" / "gold_vision" / "dinov2")


@pytest.fixture(scope="module")
def data(tabletop_dataset):
    return {"data.directory": str(tabletop_dataset)}


@pytest.fixture(scope="module")
def run(run_program, data, tmp_path_factory):
    """A finished run that was stopped half-way and started again."""
    folder = tmp_path_factory.mktemp("tokenizer")
    run_program("train_tokenizer", folder, num_steps=2, **data)
    run_program("train_tokenizer", folder, **data)
    return folder


def rows(folder, split="train"):
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in found if row["split"] == split]


def load(folder):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        return trained.load_tokenizer(folder, mesh)


def test_a_run_leaves_all_that_is_promised(run):
    for path in ("config.json", "summary.json", "metrics.jsonl", "checkpoints/4/state"):
        assert (run / path).exists(), path
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]
    wanted = {"loss", "psnr", "perplexity", "codes_used", "quantise_error", "revived", "learning_rate"}
    assert all(wanted <= set(row) and np.isfinite(list(row[key] for key in wanted)).all() for row in rows(run))
    assert rows(run)[-1]["codes_used"] > 1


def test_held_out_frames_are_judged_as_they_decode(run, data, load_config):
    summary = json.loads((run / "summary.json").read_text())
    config = load_config("train_tokenizer", **data)
    held = sources.open_mixture(config.data, "val")
    frames = tokenizer_quality.sample(held, 16, 32)
    assert summary["held_out_frames"] == len(frames) == 16 and summary["num_codes"] == 16
    tokenizer = load(run)
    ids = np.asarray(image_tokens.encode_frames(tokenizer, frames))
    images = np.asarray(image_tokens.decode_tokens(tokenizer, ids))
    mse = np.mean(np.square((images.astype(np.float64) - frames) / 255))
    np.testing.assert_allclose(summary["mse"], mse, rtol=2e-2)  # these were rounded to bytes
    np.testing.assert_allclose(summary["psnr"], -10 * np.log10(summary["mse"]), rtol=1e-4)
    np.testing.assert_allclose(summary["mean_mse"], np.mean(np.var(frames / 255, axis=0)), rtol=1e-4)
    assert summary["codes_used"] == len(np.unique(ids)) and summary["tokens_per_frame"] == ids.shape[1]
    assert 1 <= summary["perplexity"] <= summary["codes_used"] + 1e-3
    with np.load(run / "gallery.npz") as gallery:
        assert gallery["frame"].shape == gallery["reconstruction"].shape == (8, 32, 32, 3)


def test_frames_of_all_episodes_are_sampled_once(video_episodes):
    frames = tokenizer_quality.sample(episodes.as_mixture(video_episodes), 10**6, 64)
    assert len(frames) == int(video_episodes.lengths.sum())
    np.testing.assert_array_equal(frames[0], video_episodes.frame(0, 0, 64))


def test_a_resumed_run_is_the_same_run(run, run_program, data, tmp_path):
    run_program("train_tokenizer", tmp_path, **data)
    assert rows(tmp_path)[-1]["loss"] == rows(run)[-1]["loss"]
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path).variables, load(run).variables)


def test_a_finished_run_is_not_run_again(run, run_program, programs, data, monkeypatch):
    def never(*_, **__):
        raise AssertionError("work was done again")

    monkeypatch.setattr(programs["train_tokenizer"].training, "make_train_step", lambda *_, **__: never)
    run_program("train_tokenizer", run, **data)
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_training_helps(run_program, data, tmp_path):
    changes = data | {"num_steps": 40, "log_every": 10, "evaluation.frames": 100}
    run_program("train_tokenizer", tmp_path, **changes, **{"data.augment.crop": 0.9})
    losses = [row["loss"] for row in rows(tmp_path)]
    assert losses[-1] < 0.5 * losses[0]
    assert rows(tmp_path)[-1]["codes_used"] >= 4


@pytest.mark.slow
def test_a_tower_looks_at_the_result(run, run_program, data, tmp_path):
    """Its share of the loss reaches the tokenizer; the folder can be opened without the tower."""
    changes = data | {"tower.path": TOWER, "loss.perceptual": 0.5, "num_steps": 1}
    run_program("train_tokenizer", tmp_path, **changes)
    found, plain = rows(tmp_path)[0], rows(run)[0]
    assert found["perceptual"] > 0
    np.testing.assert_allclose(found["loss"], plain["loss"] + 0.5 * found["perceptual"], rtol=1e-4)
    assert abs(found["grad_norm"] - plain["grad_norm"]) > 1e-3 * plain["grad_norm"]
    assert set(load(tmp_path).variables) == {"params", "codebook"}


@pytest.mark.slow
def test_codebooks_by_gradient_and_whitening_train_too(run_program, data, tmp_path):
    changes = {"model.quantizer": "vq", "model.quantizers.vq.whiten": True}
    run_program("train_tokenizer", tmp_path, **data, num_steps=2, **changes)
    variables = load(tmp_path).variables
    assert "codebook" in variables["params"]["quantize"] and variables["batch_stats"]["quantize"]["centre"]


MISTAKES = [
    ({"loss.perceptual": 1.0}, "loss.perceptual needs a tower"),
    ({"tower.path": TOWER}, "config.tower.path is for loss.perceptual, which is 0"),
    (
        {"tower.path": TOWER, "loss.perceptual": 1.0, "model.multipliers": (1, 2), "data.image_size": 30},
        "vision tower got images of 30x30",
    ),
    ({"data.image_size": 62}, "62x62x3 .*data.image_size to a multiple of 4"),
    ({"model.quantizer": "fsq"}, "no model.quantizer 'fsq'"),
    ({"data.train_split": "trian"}, "no split 'trian'"),
    ({"data.val_split": "vla"}, "no split 'vla'"),
]


@pytest.mark.parametrize("changes, says", MISTAKES)
def test_mistakes_are_named_and_claim_no_folder(changes, says, run_program, data, tmp_path):
    with pytest.raises(errors.UserError, match=says) as caught:
        run_program("train_tokenizer", tmp_path / "run", **data | changes)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_a_run_of_another_stage_is_refused(run, tmp_path):
    config = {"model": {"backbone": "conv"}, "data": {"image_size": 64}}
    with checkpoints.Checkpoints(tmp_path / "laq", config) as saved:
        saved.save(1, {"params": {"kernel": np.ones(2)}}, {"position": 0})
        saved.wait()
    with pytest.raises(errors.UserError, match="laq is not a train_tokenizer run"):
        load(tmp_path / "laq")
    with pytest.raises(errors.UserError, match="is not a train_laq run"):
        trained.load_laq(run, sharding.make_mesh(devices=jax.devices()[:1]))
