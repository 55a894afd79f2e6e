"""Every config of every size loads, survives JSON, and names what the code takes."""

import importlib
import inspect
import json
import pathlib

import jax
import pytest

from lapa_jax import checkpoints, errors, optimizers, sharding, vocab
from lapa_jax.data import statistics
from lapa_jax.models import laq, vlm, vqgan
from lapa_jax.models.token_stream import Tokens

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "experiments" / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("common", "__init__"))
SIZED = [(name, size) for name in NAMES for size in ("base", "full", "demo", "tiny")]
STAGES = ("train_laq", "train_tokenizer", "pretrain_vlm", "finetune")
TRAINED = [(name, size) for name, size in SIZED if name in STAGES]


def test_every_program_has_its_config():
    programs = {path.stem for path in FOLDER.parent.glob("*.py") if "launch.define" in path.read_text()}
    assert programs == set(NAMES) and len(NAMES) >= 5


@pytest.mark.parametrize("name, size", SIZED)
def test_configs_load_and_survive_json(name, size, load_config):
    config = load_config(name, size)
    assert config.is_locked
    flat = checkpoints.flatten(config.to_dict())
    for key, value in flat.items():
        assert isinstance(value, bool | int | float | str | tuple | None), f"{key} is {type(value)}"
    back = checkpoints.flatten(json.loads(json.dumps(config.to_dict())))
    assert back == {key: list(v) if isinstance(v, tuple) else v for key, v in flat.items()}


@pytest.mark.parametrize("name", NAMES)
def test_sizes_differ_and_unknown_ones_are_refused(name, load_config):
    module = importlib.import_module(f"configs.{name}")
    assert set(module.SIZES) - {"official"} == {"base", "full", "demo", "tiny"}
    assert load_config(name, "tiny") != load_config(name, "base")
    with pytest.raises(errors.UserError, match="no size 'huge'; choose one of: .*tiny"):
        module.get_config("huge")


@pytest.mark.parametrize("name", NAMES)
def test_configs_are_locked(name, load_config):
    config = load_config(name)
    with pytest.raises((AttributeError, KeyError), match="num_step"):
        config.num_step = 1
    with pytest.raises(TypeError, match="batch_size"):
        config.batch_size = "many"


def test_keys_that_may_change_on_resume_exist(load_config):
    keys = {key for name in NAMES for key in checkpoints.flatten(load_config(name).to_dict())}
    assert all(any(key.startswith(free) for key in keys) for free in checkpoints.FREE)


@pytest.mark.parametrize("name, size", SIZED)
def test_mesh_and_batch_fit_8_devices(name, size, load_config):
    config = load_config(name, size)
    mesh = sharding.make_mesh(**config.mesh)
    assert config.batch_size % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0


@pytest.mark.parametrize("name, size", TRAINED)
def test_sections_are_keyword_arguments(name, size, load_config):
    config = load_config(name, size)
    _, schedule = optimizers.make(config.num_steps, **config.optimizer)
    assert 0 <= float(schedule(config.num_steps)) <= float(schedule(config.optimizer.warmup_steps))
    inspect.signature(checkpoints.Checkpoints).bind("workdir", {}, {}, **config.checkpoint)
    if name == "finetune":
        inspect.signature(statistics.compute).bind(None, config.data.normalisation)


@pytest.mark.parametrize("size", ["base", "full", "demo", "tiny"])
def test_models_are_built_from_what_a_checkpoint_holds(size, load_config):
    """A checkpoint's config comes back as JSON: lists for tuples, plain dicts."""
    key = jax.random.key(0)
    config = json.loads(json.dumps(load_config("train_laq", size).to_dict()))
    model = laq.LatentActionQuantizer(**config["model"])
    shapes = jax.eval_shape(laq.init_fn(model, config["data"]["image_size"]), key)
    assert shapes["params"]
    config = json.loads(json.dumps(load_config("train_tokenizer", size).to_dict()))
    shapes = jax.eval_shape(vqgan.init_fn(vqgan.from_config(config["model"]), config["data"]["image_size"]), key)
    assert shapes["params"]
    config = json.loads(json.dumps(load_config("pretrain_vlm", size).to_dict()))
    config["model"]["vocabs"]["latent"] = 8  # filled in by the program, as many as there are
    model = vlm.from_config(config["model"], text_vocab=20)
    ids = jax.numpy.ones((1, 2), int)
    assert jax.eval_shape(model.init, key, Tokens.of(ids, vocab.TEXT))["params"]


@pytest.mark.parametrize("size", ["full", "demo", "tiny"])
def test_stages_agree_on_what_they_hand_on(size, load_config):
    stages = [load_config(name, size).data for name in ("train_laq", "pretrain_vlm", "finetune")]
    assert len({data.directory for data in stages}) == 1
    assert len({data.image_size for data in stages[:2]}) == 1
