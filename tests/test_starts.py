"""Stage 2 from weights of others: the official language model, a text model of Hugging Face, an earlier run."""

import json
import pathlib
import shutil
import types

import jax
import numpy as np
import pytest
import words

from lapa_jax import checkpoints, errors, sharding, trained
from lapa_jax.convert import hugging_face_text, official_lapa
from lapa_jax.data.text import open_text

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLD = ROOT.parent / "shared" / "gold"
TEXT_MODELS = pathlib.Path(__file__).parent / "models" / "gold_text"
WORDS = ("push the red block left", "pick up the blue cup")
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no files of the official code at {GOLD}")


@pytest.fixture(scope="module")
def made(tiny_run, tabletop_dataset):
    """Labels of a tiny LAQ, and a VLM that was trained on them."""
    changes = {"data.directory": str(tabletop_dataset), "data.latents": str(tiny_run("label_latents"))}
    return types.SimpleNamespace(changes=changes, vlm=tiny_run("pretrain_vlm"))


def params(folder):
    """Stored parameters by '/'-joined path."""
    state = checkpoints.ocp.load_checkpointables(checkpoints.resolve(folder), {"state": None})["state"]
    return {k.replace(".", "/"): np.asarray(v) for k, v in checkpoints.flatten(state["params"]).items()}


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


OFFICIAL = {
    "num_steps": 0, "batch_size": 8, "evaluation.steps": 16, "checkpoint.every": 2, "log_every": 1,
    "model.dtype": "float32", "model.remat": "none", "model.rope_length": 512, "init.num_heads": 4,
    "init.path": str(GOLD / "vlm" / "params"), "text.path": str(GOLD / "vlm" / "tokenizer.model"),
}  # fmt: skip


@pytest.fixture(scope="module")
def official(made, tiny_run):
    """Changes that begin with the official files; the image tokenizer is ours, of 256 ids an image."""
    if not GOLD.is_dir():
        pytest.skip(f"no files of the official code at {GOLD}")
    return OFFICIAL | made.changes | {"encoder.path": str(tiny_run("train_tokenizer")), "data.image_size": 64}


@pytest.fixture(scope="module")
def imported(official, run_program, tmp_path_factory):
    """A run of no steps: the official weights as a folder of ours."""
    folder = tmp_path_factory.mktemp("imported")
    run_program("pretrain_vlm", folder, "official", **official)
    return folder


@needs_gold
def test_a_run_of_no_steps_is_the_official_model(imported):
    found = params(imported)
    stored = official_lapa.open_params(GOLD / "vlm" / "params")
    assert found.keys() == stored.keys()
    for name, leaf in stored.items():
        np.testing.assert_array_equal(found[name], leaf.read(dtype=np.float32), err_msg=name)
    assert summary(imported)["held_out_steps"] > 0


@needs_gold
def test_it_goes_back_bit_by_bit(imported, tmp_path):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    _, state = trained.load_planner(imported, mesh)
    official_lapa.write(tmp_path / "params", state.params)
    assert (tmp_path / "params").read_bytes() == (GOLD / "vlm" / "params").read_bytes()


@needs_gold
def test_it_is_trained_on_with_the_official_layout_and_losses(official, run_program, tmp_path):
    run_program("pretrain_vlm", tmp_path, "official", **official | {"num_steps": 2, "data.packed": True,
                "data.row_length": 384})  # fmt: skip
    rows = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    rows = [row for row in rows if row["split"] == "train"]
    assert all(np.isfinite([row["latent_loss"], row["text_loss"]]).all() for row in rows) and len(rows) == 2
    weighted = 0.99 * rows[0]["latent_loss"] + 0.01 * rows[0]["text_loss"]
    np.testing.assert_allclose(rows[0]["loss"], weighted, rtol=1e-4)
    stored = official_lapa.open_params(GOLD / "vlm" / "params")
    found = params(tmp_path)
    moved = {name for name, leaf in stored.items() if not np.array_equal(found[name], leaf.read(dtype=np.float32))}
    assert "body/layers/attention/wq/kernel" in moved and "head_vision/kernel" not in moved


@needs_gold
def test_tables_that_are_ignored_begin_anew(official, run_program, tmp_path):
    """As LWM's file, which has none for latents."""
    run_program("pretrain_vlm", tmp_path, "official", **official | {"init.ignore": "latent"})
    found = params(tmp_path)
    stored = official_lapa.open_params(GOLD / "vlm" / "params")
    same = {name for name, leaf in stored.items() if np.array_equal(found[name], leaf.read(dtype=np.float32))}
    assert stored.keys() - same == {"embed_latent/embedding", "head_latent/kernel"}


@needs_gold
def test_the_official_trunk_takes_words_of_the_dataset_if_its_table_is_left(official, run_program, tmp_path):
    left = {"init.ignore": "(embed|head)_text", "init.new": "(embed|head)_(text|latent)"}
    changes = {"text.path": None, "layout": "clean", "loss_weights.text": 0.0, "model.vocabs.text": 0}
    run_program("pretrain_vlm", tmp_path, "official", **official | changes | left)
    found = params(tmp_path)
    stored = official_lapa.open_params(GOLD / "vlm" / "params")
    trunk = "body/layers/attention/wq/kernel"
    np.testing.assert_array_equal(found[trunk], stored[trunk].read(dtype=np.float32))
    assert len(found["embed_text/embedding"]) < 64 < len(stored["embed_text/embedding"].read(dtype=np.float32))


@needs_gold
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"init.num_heads": None}, "width is 64.* --config.init.num_heads"),
        (
            {"text.path": None, "layout": "clean", "loss_weights.text": 0.0},
            "without the tokenizer .*--config.text.path",
        ),
        (
            {"text.path": "OTHER", "layout": "clean", "loss_weights.text": 0.0},
            "tokenizer has .* ids and .*params a table of 512",
        ),
        ({"init.ignore": "latent", "init.new": "nothing"}, "has no embed_latent/embedding, .*--config.init.new"),
        ({"model.heads": ("latent", "text")}, "has head_vision/kernel, .*--config.init.ignore"),
        ({"init.path": "nowhere"}, "nothing at nowhere"),
        ({"data.row_length": 60}, "places and a row has 60"),
        ({"layout": "clean"}, "loss_weights.text=0.01"),
    ],
)
def test_what_does_not_fit_the_official_file_is_named(changes, message, official, run_program, tmp_path):
    if changes.get("text.path") == "OTHER":
        changes = changes | {"text.path": str(words.save(tmp_path / "words", WORDS))}
    with pytest.raises(errors.UserError, match=message) as caught:
        run_program("pretrain_vlm", tmp_path / "run", "official", **official | changes)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["qwen3", "gemma"])
def test_a_text_model_lends_its_trunk_and_words(name, made, run_program, tmp_path):
    folder = words.save(pathlib.Path(shutil.copytree(TEXT_MODELS / name, tmp_path / name)), WORDS)
    changes = made.changes | {"init.path": str(folder), "num_steps": 0}
    run_program("pretrain_vlm", tmp_path / "vlm", **changes, **{"init.ignore": "head_text"})
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    text, expected = hugging_face_text.load(folder, mesh)
    found = params(tmp_path / "vlm")
    for key, value in checkpoints.flatten(expected["body"]).items():
        np.testing.assert_array_equal(found[f"body/{key.replace('.', '/')}"], value, err_msg=key)
    np.testing.assert_array_equal(found["embed_text/embedding"], expected["embed_text"]["embedding"])
    assert any(key.startswith("stem/") for key in found) and "head_latent/kernel" in found
    planner, _ = trained.load_planner(tmp_path / "vlm", mesh)
    assert planner.model.trunk["width"] == text.trunk["width"]
    assert planner.layout.tokenizer.ids(WORDS[0]) == open_text(folder, WORDS, 20).ids(WORDS[0])


def test_a_text_model_without_its_tokenizer_is_refused_unless_its_table_is_left(made, run_program, tmp_path):
    changes = made.changes | {"init.path": str(TEXT_MODELS / "qwen3"), "num_steps": 0}
    with pytest.raises(errors.UserError, match="without the tokenizer .*--config.text.path"):
        run_program("pretrain_vlm", tmp_path / "vlm", **changes, **{"init.ignore": "head_text"})
    left = {"init.ignore": "(head|embed)_text", "init.new": "(head|embed)_|project/|stem/"}
    run_program("pretrain_vlm", tmp_path / "vlm", **changes, **left)
    assert len(params(tmp_path / "vlm")["embed_text/embedding"]) < 64  # words of the dataset


def test_a_run_goes_on_as_lora_with_its_base_in_bfloat16(made, run_program, tmp_path):
    """The base stays as it was; thin matrices and the latents' tables learn, and stage 3 takes the whole."""
    changes = made.changes | {
        "init.path": str(made.vlm), "model.lora.rank": 2, "optimizer.trainable": "lora_|latent",
        "frozen_dtype": "bfloat16",
    }  # fmt: skip
    run_program("pretrain_vlm", tmp_path / "lora", **changes)
    before, after = params(made.vlm), params(tmp_path / "lora")
    thin = {name for name in after if "lora_" in name}
    assert len(thin) == 14 and after.keys() - thin == before.keys()
    for name in before:
        frozen = "latent" not in name
        assert after[name].dtype == ("bfloat16" if frozen else np.float32), name
        rounded = before[name].astype(after[name].dtype)
        assert np.array_equal(after[name], rounded) == frozen, name
    assert all(np.abs(after[name]).max() > 0 for name in thin)
    run_program("finetune", tmp_path / "finetune", vlm=str(tmp_path / "lora"),
                **{"data.directory": made.changes["data.directory"]})  # fmt: skip
    assert summary(tmp_path / "finetune")["updates"] == 4


def test_a_run_goes_on_with_its_own_words(made, run_program, tmp_path):
    run_program("pretrain_vlm", tmp_path / "again", **made.changes, **{"init.path": str(made.vlm), "num_steps": 0})
    one, other = params(made.vlm), params(tmp_path / "again")
    assert one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
    tokenizers = [checkpoints.load_json(folder, "assets")["tokenizer"] for folder in (made.vlm, tmp_path / "again")]
    assert tokenizers[0] == tokenizers[1]


def test_thin_matrices_beside_a_network_that_trains_are_refused(made, run_program, tmp_path):
    with pytest.raises(errors.UserError, match="model.lora.rank=2 .*optimizer.trainable"):
        run_program("pretrain_vlm", tmp_path / "run", **made.changes, **{"model.lora.rank": 2})
