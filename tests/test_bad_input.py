"""A user's mistake: one line that names the thing, status 2, and nothing changed on disk."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
import test_rlds  # tests/data

from lapa_jax import checkpoints, errors
from lapa_jax.data import transforms

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def laq_run(tiny_run, tmp_path_factory):
    """A finished train_laq run; tests that start in it leave it as it is."""
    return shutil.copytree(tiny_run("train_laq"), tmp_path_factory.mktemp("laq") / "run")


def contents(folder):
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*")) if p.is_file() and "tensorboard" not in p.parts
    }


DATA = "{dataset}"
LATENTS = {"data.directory": DATA, "data.latents": "{nowhere}"}
MISTAKES = [
    ("train_laq", {"data.directory": "{nowhere}"}, "no dataset at .*nowhere"),
    ("train_laq", {"data.directory": DATA, "data.train_split": "trian"}, "no split 'trian'.*train"),
    ("train_laq", {"data.directory": DATA, "data.val_split": "vla"}, "no split 'vla'"),
    ("train_laq", {"data.directory": DATA, "data.image_key": "wrist"}, "no image 'wrist'"),
    ("train_laq", {"data.directory": DATA, "data.gap": 5.0}, "gap of 50 steps"),
    ("train_laq", {"data.directory": DATA, "data.gap": 0.0}, "data.gap 0.0 s"),
    ("train_laq", {"data.directory": DATA, "mesh.fsdp": 3}, "does not fit 8 devices"),
    ("train_laq", {"data.directory": DATA, "model.quantizer": "magic"}, "model.quantizer 'magic'"),
    ("train_laq", {"data.directory": DATA, "model.num_codes": 9}, "num_codes=9"),
    ("train_laq", {"data.directory": DATA, "model.num_codes": 1}, "num_codes=1: it must be 2"),
    ("train_laq", {"data.directory": DATA, "model.code_length": 0}, "code_length=0"),
    ("train_laq", {"data.directory": DATA, "data.image_size": 60}, "60x60x3.*multiples of 8.*data.image_size"),
    ("label_latents", {}, "which LAQ.*--config.laq"),
    ("label_latents", {"laq": "{nowhere}"}, "no checkpoint under .*nowhere"),
    ("pretrain_vlm", {"data.directory": DATA}, "which latent actions.*--config.data.latents"),
    ("pretrain_vlm", LATENTS, "nowhere"),
    ("pretrain_vlm", LATENTS | {"data.directory": "{nowhere}"}, "no dataset at .*nowhere"),
    ("finetune", {"data.directory": DATA}, "which VLM.*--config.vlm"),
    ("finetune", {"data.directory": DATA, "vlm": "{nowhere}"}, "no checkpoint under .*nowhere"),
    ("evaluate", {}, "which policy.*--config.policies.lapa"),
    ("evaluate", {"policies.lapa": "{nowhere}"}, "no checkpoint under .*nowhere"),
]


@pytest.mark.parametrize("program, changes, message", MISTAKES, ids=lambda x: None if isinstance(x, dict) else x)
def test_mistakes_are_named_and_claim_no_folder(
    program, changes, message, run_program, tabletop_dataset, tmp_path
):
    places = {"dataset": tabletop_dataset, "nowhere": tmp_path / "nowhere"}
    changes = {k: v.format(**places) if isinstance(v, str) else v for k, v in changes.items()}
    with pytest.raises(errors.UserError, match=message) as caught:
        run_program(program, tmp_path / "run", **changes)
    assert "\n" not in str(caught.value)
    # So that the command, mended, may be given the same folder.
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list(tmp_path.rglob("state"))


@pytest.mark.parametrize("program, key", [("label_latents", "laq"), ("finetune", "vlm")])
def test_a_run_of_another_stage_is_refused(program, key, run_program, laq_run, tmp_path):
    """A LAQ for a VLM, and the other way round."""
    other = laq_run
    if key == "laq":
        other, model = tmp_path / "vlm", {"size": "debug", "vocabs": {"text": 0}}
        config = {"model": model, "data": {"image_size": 64}}
        with checkpoints.Checkpoints(other, config, {"tokenizer": "x"}) as saved:
            saved.save(1, {"params": {"kernel": np.ones(2)}}, {"position": 0})
            saved.wait()
    with pytest.raises(errors.UserError, match=other.name):
        run_program(program, tmp_path / "run", **{key: str(other)})


@pytest.fixture
def bare_dataset(tmp_path):
    """Writes a dataset without one of its features."""

    def make(missing):
        features, image = tfds.features, transforms.encode_png(np.zeros((8, 8, 3), np.uint8))
        steps = {
            "observation": {"state": np.float32, "image": features.Image(shape=(8, 8, 3))},
            "language_instruction": features.Text(),
        }
        row = {"observation": {"state": 0.0, "image": image}, "language_instruction": "push"}
        for tree in (steps, row):
            (tree["observation"] if missing == "image" else tree).pop(missing)
        test_rlds.write(tmp_path / "data", steps, [row] * 9)
        return {"data.directory": str(tmp_path / "data")}

    return make


def test_a_dataset_without_images_is_refused(bare_dataset, run_program, tmp_path):
    with pytest.raises(errors.UserError, match="no image feature"):
        run_program("train_laq", tmp_path / "run", **bare_dataset("image"))
    assert not (tmp_path / "run").exists()


def test_a_dataset_of_unknown_rate_needs_one(bare_dataset, run_program, tmp_path):
    """Stage 1 needs no instruction, but it must know what a gap in seconds is."""
    changes = bare_dataset("language_instruction")
    with pytest.raises(errors.UserError, match="bare: how many steps a second is not known; give data.rate"):
        run_program("train_laq", tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()
    run_program("train_laq", tmp_path / "run", **changes, **{"data.rate": 10.0})
    assert checkpoints.resolve(tmp_path / "run").name == "4"


def test_a_folder_of_another_config_is_left_as_it_is(run_program, laq_run, tabletop_dataset):
    before = contents(laq_run)
    for change in ({"seed": 1}, {"model.backbone_args.width": 16}, {"data.gap": 0.3}):
        ((key, value),) = change.items()
        with pytest.raises(errors.UserError, match=f"another config .*{key}: .* there, {value} now"):
            run_program("train_laq", laq_run, **{"data.directory": str(tabletop_dataset)} | change)
    assert contents(laq_run) == before


def test_a_checkpoint_of_another_size_is_refused_by_name(run_program, laq_run, tabletop_dataset, tmp_path):
    workdir = shutil.copytree(laq_run, tmp_path / "run")
    (workdir / "config.json").unlink()
    changes = {"data.directory": str(tabletop_dataset), "model.backbone_args.width": 16}
    with pytest.raises(errors.UserError, match=r"of another model: body/.* is \(.*16"):
        run_program("train_laq", workdir, **changes)
    assert checkpoints.resolve(workdir).name == "4"


def test_a_batch_that_does_not_divide_is_named(run_program, tabletop_dataset, tmp_path):
    changes = {"data.directory": str(tabletop_dataset), "batch_size": 6}
    with pytest.raises(errors.UserError, match="batch of 6 rows .* 8 devices.*--config.batch_size"):
        run_program("train_laq", tmp_path, **changes)


def test_more_episodes_than_there_are_is_refused(robot_episodes):
    for count in (0, len(robot_episodes)):
        with pytest.raises(errors.UserError, match="data.episodes"):
            robot_episodes.divided(count)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["tiny", "--config.data.directory=nowhere"], "no dataset at nowhere"),
        (["tiny", "--config.num_step=3"], "num_step"),
        (["tiny", "--config.batch_size=many"], "batch_size"),
        (["huge"], "no size 'huge'"),
    ],
    ids=["no dataset", "no such key", "wrong type", "no such size"],
)
def test_programs_end_in_one_line_and_status_2(arguments, message, tmp_path):
    size, *others = arguments
    config = f"--config=experiments/configs/train_laq.py:{size}"
    command = [sys.executable, "experiments/train_laq.py", config, *others, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and message in lines[0], done.stderr
    assert not (tmp_path / "run").exists()
