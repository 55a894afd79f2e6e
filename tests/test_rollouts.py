"""Latent rollouts: the VLM's own codes, painted by the LAQ, frame by frame; and the program around them."""

import dataclasses
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors, generate, latent_rollout, sharding, trained
from lapa_jax.evaluation import rollout_quality
from lapa_jax.models import laq


@pytest.fixture(scope="module")
def runs(run_program, tiny_run, tmp_path_factory):
    """Folders of a tiny LAQ, of a VLM that was trained on its codes, and of their rollouts."""
    folder = tmp_path_factory.mktemp("rollouts")
    found = {"vlm": str(tiny_run("pretrain_vlm")), "laq": str(tiny_run("train_laq"))}
    run_program("rollout_latents", folder, **found)
    return types.SimpleNamespace(**found, folder=folder)


@pytest.fixture(scope="module")
def simulated(runs):
    """(simulator, variables, prompt, first frames)."""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        planner, state = trained.load_planner(runs.vlm, mesh)
        quantizer, painter, _ = trained.load_laq(runs.laq, mesh)
    simulator = latent_rollout.Simulator(planner, quantizer)
    variables = {
        "planner": {"params": state.params, **state.variables},
        "laq": {"params": painter.params, **painter.variables},
    }
    frames = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    return simulator, variables, planner.prompts(["push the red block", "point at it"]), frames


def test_each_frame_is_painted_from_the_one_before_and_the_code_chosen_for_it(simulated):
    simulator, variables, prompt, first = simulated
    keys = jax.random.split(jax.random.key(0), 3)
    codes, frames = simulator.imagine(variables, prompt, first, keys)
    assert codes.shape == (3, 2, 1) and frames.shape == (3, 2, 64, 64, 3)
    before = first
    for step in range(3):
        pixels = np.round(np.clip(before, 0, 1) * 255).astype(np.uint8)
        model, params = simulator.planner.model, {"params": variables["planner"]["params"]}
        hidden = model.apply(params, trained.tokens_of(prompt), pixels[:, None], prompt["text"][:, None])
        chosen = jnp.argmax(model.apply(params, hidden[:, -1:], method="logits"), axis=-1)
        np.testing.assert_array_equal(codes[step], chosen)
        painted = simulator.quantizer.apply(variables["laq"], before, chosen, method="decode")
        np.testing.assert_allclose(frames[step], painted, atol=1e-5)
        before = np.asarray(frames[step])


def test_replayed_codes_give_the_same_frames(simulated):
    simulator, variables, prompt, first = simulated
    codes, frames = simulator.imagine(variables, prompt, first, jax.random.split(jax.random.key(0), 2))
    np.testing.assert_allclose(simulator.replay(variables, first, codes), frames, atol=1e-5)


def test_labels_are_those_of_the_laq(simulated):
    simulator, variables, _, first = simulated
    video = np.stack([first, first[::-1], first])
    expected = [
        simulator.quantizer.apply(variables["laq"], *pair, method="encode").codes
        for pair in zip(video, video[1:], strict=False)
    ]
    np.testing.assert_array_equal(simulator.label(variables, video), expected)


def test_drawn_codes_stay_below_the_number_there_are(simulated):
    """A table may have more rows than there are codes."""
    simulator, variables, prompt, first = simulated
    hot = generate.Sampling(temperature=100.0)
    few = dataclasses.replace(simulator.quantizer, num_codes=2, quantizers={"fsq": {"levels": (2,)}})
    painters = [(few, laq.init_fn(few, 64)(jax.random.key(0))), (simulator.quantizer, variables["laq"])]
    keys, most = jax.random.split(jax.random.key(1), 8), []
    for quantizer, painter in painters:
        one = latent_rollout.Simulator(simulator.planner, quantizer, hot)
        most.append(np.max(one.imagine({**variables, "laq": painter}, prompt, first, keys)[0]))
    assert most[0] == 1 and most[1] > 1


def test_a_laq_of_another_vlm_is_refused(simulated):
    simulator = simulated[0]
    other = dataclasses.replace(simulator.quantizer, code_length=3)
    with pytest.raises(errors.UserError, match="predicts 1 codes of 8 and the LAQ has 3 of 8"):
        latent_rollout.Simulator(simulator.planner, other)
    blind = dataclasses.replace(simulator.quantizer, target="features")
    with pytest.raises(errors.UserError, match="paints no frame"):
        latent_rollout.Simulator(simulator.planner, blind)


def test_the_program_leaves_pictures_and_numbers(runs):
    found = json.loads((runs.folder / "rollouts.json").read_text())
    assert set(found["psnr"]) == {"imagined", "true codes", "first_frame"} and len(found["instructions"]) == 2
    assert all(np.isfinite(value) for values in found["psnr"].values() for value in values)
    assert np.array(found["codes"]).shape == (3, 2, 1)
    assert Image.open(runs.folder / "strips.png").height > 2 * Image.open(runs.folder / "strip_000.png").height - 9
    assert Image.open(runs.folder / "imagined_001.gif").n_frames >= 2


def test_missing_runs_are_named(run_program, runs, tmp_path):
    with pytest.raises(errors.UserError, match="which LAQ"):
        run_program("rollout_latents", tmp_path, vlm=runs.vlm)
    with pytest.raises(errors.UserError, match="is not a pretrain_vlm run"):
        run_program("rollout_latents", tmp_path, vlm=runs.laq, laq=runs.laq)


def test_steps_beyond_the_end_of_a_video_do_not_count():
    truth = np.zeros((3, 2, 4, 4, 3))
    truth[1:] = 0.5
    found = {"imagined": np.full((2, 2, 4, 4, 3), 0.4)}
    found["imagined"][1, 1] = 0.0  # of a video that ended
    codes = np.zeros((2, 2, 1), int)
    summary = rollout_quality.summarise(truth, found, np.array([2, 1]), codes, np.array([[[0], [1]], [[0], [1]]]))
    np.testing.assert_allclose(summary["psnr"]["imagined"], [20.0, 20.0])
    np.testing.assert_allclose(summary["psnr"]["first_frame"], [10 * np.log10(4)] * 2)
    assert summary["code_agreement"] == [0.5, 1.0] and summary["videos"] == [2, 1]
