"""The program: an official file becomes a run that labels video, a run becomes an official file."""

import functools
import importlib
import json
import pathlib
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from test_official_laq import GOLD, official_state, same

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import official_laq, torch_zip
from lapa_jax.data import latents, rlds
from lapa_jax.models import laq

ROOT = pathlib.Path(__file__).parents[2]
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def program():
    """The module with flags that a test can set; other programs that tests import have some of the same name."""
    with pytest.MonkeyPatch.context() as patch:
        for define in ("DEFINE_string", "DEFINE_integer"):
            patch.setattr(flags, define, lambda *_, **__: types.SimpleNamespace(value=None))
        patch.setattr(config_flags, "DEFINE_config_file", lambda *_, **__: types.SimpleNamespace(value=None))
        return importlib.import_module("convert_laq")


convert_laq = program()


@pytest.fixture(scope="module")
def config(load_config):
    return load_config("train_laq", "official").to_dict()


TOY = official_state(4, depth_spatial=1, image_size=64, patch_size=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory, config, tabletop_dataset):
    """The folder made of TOY, which lies beside it."""
    folder = tmp_path_factory.mktemp("official")
    torch_zip.write(folder / "laq_toy.pt", TOY)
    config = config | {"data": config["data"] | {"directory": str(tabletop_dataset), "gap": 0.4}}
    made = convert_laq.import_official(str(folder / "laq_toy.pt"), folder / "run", config, {}, image_size=64)
    assert made["data"]["image_size"] == 64
    return folder / "run"


def test_a_run_is_made_and_comes_back(run, tmp_path):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        model, restored, config = trained.load_laq(run, mesh)
    assert (model.quantizer, model.code_length, model.num_codes) == ("nsvq_official", 4, 5)
    assert config["model"]["backbone_args"]["legacy"] and int(restored.step) == 0
    assert not np.any(jax.tree.leaves(restored.variables["codebook"])[-1])
    assert json.loads((run / "summary.json").read_text())["parameters"] == sum(
        value.size for key, value in TOY.items() if not key.endswith(".beta")
    )
    convert_laq.export_run(str(run), str(tmp_path / "back.pt"))
    assert same(torch_zip.read(tmp_path / "back.pt"), TOY)


def test_it_labels_video(run, run_program, tabletop_dataset, tmp_path):
    """The codes on disk are those of the converted model, pair by pair."""
    run_program("label_latents", tmp_path / "latents", laq=str(run))
    video = rlds.open_episodes(tabletop_dataset, "val")
    labels = latents.open_latents(tmp_path / "latents" / "val", video)
    assert (labels.code_length, labels.num_codes) == (4, 5)
    model, body, codebook = official_laq.read(str(run.parent / "laq_toy.pt"), image_size=64)
    frames = np.stack([video.frame(0, step, 64) for step in range(len(labels.codes(0)) + labels.gap)])
    variables = {"params": {"body": body, "quantize": {"codebook": jax.numpy.asarray(codebook)}}, "codebook": {}}
    module = laq.LatentActionQuantizer(**model)
    encode = jit(lambda a, b: module.apply(variables, a, b, method="encode", mutable=["codebook"])[0].codes)
    np.testing.assert_array_equal(labels.codes(0), encode(frames[: -labels.gap], frames[labels.gap :]))


@pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")
def test_the_codes_are_those_of_the_official_code(config, tmp_path):
    path = str(GOLD / "seq4" / "vae.0.pt")
    convert_laq.import_official(path, tmp_path / "run", config, {}, image_size=64)
    with np.load(GOLD / "seq4" / "inference.npz") as arrays:
        video, codes = arrays["video_u8"].transpose(2, 0, 3, 4, 1), arrays["indices"]
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        model, state, _ = trained.load_laq(tmp_path / "run", mesh)
        variables = {"params": state.params, **state.variables}
        found = jit(lambda a, b: model.apply(variables, a, b, method="encode").codes)(*video)
    np.testing.assert_array_equal(found, codes)


def test_a_folder_is_not_overwritten(run, config):
    path = str(run.parent / "laq_toy.pt")
    with pytest.raises(errors.UserError, match="has a checkpoint already"):
        convert_laq.import_official(path, run, json.loads((run / "config.json").read_text()), {}, image_size=64)
    with pytest.raises(errors.UserError, match="another config"):
        convert_laq.import_official(path, run, config, {}, image_size=64)


@pytest.mark.parametrize(
    "key, value, there", [("model.code_length", 1, 4), ("model.num_codes", 8, 5), ("data.image_size", 256, 64)]
)
def test_a_flag_that_disagrees_with_the_file_is_named(key, value, there, run, config, tmp_path):
    path = str(run.parent / "laq_toy.pt")
    with pytest.raises(errors.UserError, match=f"config.{key}={value}, but .*laq_toy.pt has {there}"):
        convert_laq.import_official(path, tmp_path / "run", config, {key: value}, image_size=64)
    assert not (tmp_path / "run").exists()


def test_a_flag_that_makes_another_model_is_refused(run, config, tmp_path):
    path = str(run.parent / "laq_toy.pt")
    with pytest.raises(errors.UserError, match="config.model.target is not for an official LAQ"):
        convert_laq.import_official(path, tmp_path / "run", config, {"model.target": "features"}, image_size=64)
    given = {"model.backbone_args.dtype": "bfloat16", "model.code_length": 4}
    convert_laq.import_official(path, tmp_path / "run", config, given, image_size=64)


def command(*flags):
    program = [sys.executable, "experiments/convert_laq.py", *flags]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    torch_zip.write(tmp_path / "laq.pt", official_state(1))
    done = command(f"--official={tmp_path}/laq.pt", f"--workdir={tmp_path}/run", "--config.data.gap=0.3")
    assert done.returncode == 0, done.stderr
    assert "1 x 5 codes of 3" in done.stdout and "image_size 16" in done.stdout
    assert json.loads((tmp_path / "run" / "config.json").read_text())["data"]["gap"] == 0.3
    done = command(f"--run={tmp_path}/run", f"--out={tmp_path}/back.pt")
    assert done.returncode == 0, done.stderr
    assert same(torch_zip.read(tmp_path / "back.pt"), official_state(1))


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "either --official and --workdir or --run and --out"),
        (dict(OFFICIAL="x.pt"), "either"),
        (dict(OFFICIAL="x.pt", WORKDIR="y", RUN="z"), "either"),
        (dict(OFFICIAL="x.pt", WORKDIR="y", RUN="z", OUT="w"), "either"),
    ],
)
def test_flags_that_say_no_way_are_refused(given, message, monkeypatch):
    for name, value in given.items():
        monkeypatch.setattr(getattr(convert_laq, name), "value", value)
    with pytest.raises(errors.UserError, match=message):
        convert_laq.main([])
