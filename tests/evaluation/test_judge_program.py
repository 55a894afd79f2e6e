"""The program, from the folder of a LAQ to its report."""

import importlib
import json
import types

import jax
import numpy as np
import optax
import pytest

from lapa_jax import checkpoints, sharding, trained, training
from lapa_jax.data import rlds
from lapa_jax.errors import UserError
from lapa_jax.evaluation.judge.subject import Subject
from lapa_jax.models import laq


@pytest.fixture(scope="module")
def program():
    """`evaluate_laq` as a function of its config, as the command line would call it."""
    import launch

    def define(_):
        return types.SimpleNamespace(value=None), types.SimpleNamespace(value=None)

    original, launch.define = launch.define, define
    try:
        return importlib.import_module("evaluate_laq")
    finally:
        launch.define = original


@pytest.fixture(scope="module")
def judged(program, load_config, tabletop_dataset, tmp_path_factory):
    """A folder with the report about a LAQ that was not trained, on the three episodes of "train"."""
    root = tmp_path_factory.mktemp("judge")
    config = load_config("train_laq", **{"data.directory": str(tabletop_dataset)}).to_dict()
    init = training.make_init(laq.init_fn(laq.LatentActionQuantizer(**config["model"]), 64), optax.sgd(0.1))
    state = jax.jit(init)(jax.random.key(0))
    with checkpoints.Checkpoints(root / "laq", config) as saved:
        saved.save(0, state, {"position": 0})
        saved.wait()
    run(program, load_config, root / "out", laq=str(root / "laq"), split="train")
    return root


def run(program, load_config, workdir, **changes):
    program.CONFIG.value = load_config("evaluate_laq", "tiny", **changes)
    program.WORKDIR.value = str(workdir)
    program.main([])


def test_the_program_judges_a_laq(judged):
    data = json.loads((judged / "out" / "judge.json").read_text(), parse_constant=pytest.fail)
    found = data["datasets"]["tabletop"]
    assert found["about"]["episodes"] == 3 and found["probes"]["target"]["name"] == "effector displacement"
    assert np.isfinite(found["control"]["delta_db"]) and len(found["usage"]["perplexity"]) == 1
    assert (judged / "out" / "judge.html").stat().st_size > 50_000
    assert {line["status"] for line in data["lines"]} <= {"PASS", "FAIL", "NOT MEASURED"}


def test_hard_codes_and_codewords_are_the_same_to_the_decoder(judged, tabletop_dataset):
    """The measures decode codewords; stage 2 has nothing but codes."""
    mesh = sharding.make_mesh(devices=jax.local_devices())
    with jax.set_mesh(mesh):
        model, state, _ = trained.load_laq(judged / "laq", mesh)
        subject = Subject.of(model, state)
        episodes = rlds.open_episodes(tabletop_dataset, "train")
        frame, later = (np.stack([episodes.frame(0, t, 64) for t in rows]) for rows in ((0, 1), (4, 5)))
        latent = subject.encode(frame, later)
        np.testing.assert_allclose(subject.lookup(latent.codes), latent.codewords, atol=1e-6)
        assert subject.pixels and latent.codewords.shape == (2, subject.code_length, subject.code_dim)
        decoded = subject.decode(frame, latent.codewords)
    assert decoded.shape == frame.shape and 0 <= decoded.min() <= decoded.max() <= 1
    np.testing.assert_allclose(subject.view(frame), frame / np.float32(255), atol=1e-6)


TOWER = dict(width=16, depth=1, num_heads=2, mlp_dim=16, patch_size=8, image_size=64)


@pytest.mark.parametrize(
    "kind",
    [dict(quantizer="kl"), dict(target="features", tower=TOWER), dict(phase="task", scene_length=2, text_vocab=5)],
)
def test_every_kind_of_laq_is_a_subject(kind, load_config):
    model = laq.LatentActionQuantizer(**{**load_config("train_laq").model.to_dict(), **kind})
    state = jax.jit(training.make_init(laq.init_fn(model, 64), optax.sgd(0.1)))(jax.random.key(0))
    subject = Subject.of(model, state)
    frame, later = np.random.default_rng(0).integers(0, 255, (2, 3, 64, 64, 3), dtype=np.uint8)
    latent = subject.encode(frame, later)
    assert latent.codewords.shape == latent.z.shape == (3, subject.code_length, subject.code_dim)
    assert (latent.codes is None) == (subject.num_codes is None) == (kind.get("quantizer") == "kl")
    seen = subject.view(frame)
    assert subject.decode(frame, latent.codewords).shape == seen.shape
    assert seen.shape == ((3, 8, 8, 16) if "target" in kind else (3, 64, 64, 3))
    assert subject.pixels == ("target" not in kind)


def test_thresholds_may_change_and_nothing_else(judged, program, load_config):
    changes = dict(laq=str(judged / "laq"), split="train", seed=1)
    with pytest.raises(UserError, match="holds a run of another config .seed: 0 there, 1 now."):
        run(program, load_config, judged / "out", **changes, **{"thresholds.gain": -100.0})


def test_bad_input_is_one_line(program, load_config, tmp_path):
    with pytest.raises(UserError, match="which LAQ"):
        run(program, load_config, tmp_path / "out")
    with pytest.raises(UserError, match="no checkpoint"):
        run(program, load_config, tmp_path / "out", laq=str(tmp_path))
    with pytest.raises(UserError, match="pairs=3 tell nothing"):
        run(program, load_config, tmp_path / "out", laq=str(tmp_path), pairs=3)


def test_another_dataset_brings_its_own_keys(program):
    trained_on = {"directory": "a", "mixture": "m", "name": "n", "rate": 5.0, "image_key": "k", "gap": 0.4}
    empty = dict.fromkeys(("directory", "mixture", "name", "rate", "image_key", "gap"))
    assert program.data_of(trained_on, empty) == trained_on
    moved = program.data_of(trained_on, empty | {"directory": "b", "rate": 30.0})
    assert moved == {**dict.fromkeys(trained_on), "directory": "b", "rate": 30.0, "gap": 0.4}
