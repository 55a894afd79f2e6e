"""Folders of Hugging Face: names of several versions, every tensor accounted for, errors that name the thing."""

import json
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import transformers

from lapa_jax import errors
from lapa_jax.convert import hugging_face, vision_families

GOLD = pathlib.Path(__file__).parents[1] / "models" / "gold_vision"
WEIGHTS, INDEX = hugging_face.WEIGHTS, hugging_face.INDEX

NEWER_NAMES = {
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.o_proj",
    "mlp.weights_out": "mlp.down_proj",
}
"""Of DINOv2's layers: the hub's, and those of the modules since transformers 5."""


def renamed(names):
    def change(weights):
        out = {}
        for key, value in weights.items():
            for old, new in names.items():
                key = re.sub(old, new, key)
            out[key] = value
        return out

    return change


def fails(folder, named, **kwargs):
    with pytest.raises(errors.UserError, match=named) as caught:
        hugging_face.load_tower(folder, **kwargs)
    assert "\n" not in str(caught.value)


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_defaults_are_those_of_transformers():
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    for kind, defaults in vision_families.DEFAULTS.items():
        theirs = kinds[kind]().to_dict()
        ours = {key: value for key, value in defaults.items() if key in theirs}
        assert ours == {key: theirs[key] for key in ours}, kind
        assert set(defaults) - set(ours) <= {"image_size"}, kind  # NaFlex counts patches


def test_tensors_of_newer_transformers_load_alike(copy):
    folder = copy("dinov2", renamed(NEWER_NAMES))
    assert_equal_trees(hugging_face.load_tower(folder), hugging_face.load_tower(GOLD / "dinov2"))

    def split(weights):
        out = renamed(NEWER_NAMES)(weights)
        for key in [key for key in out if "weights_in" in key]:
            halves = np.split(out.pop(key), 2)
            for name, half in zip(("gate_proj", "up_proj"), halves, strict=True):
                out[key.replace("weights_in", name)] = np.ascontiguousarray(half)
        return out

    folder = copy("dinov2_giant", split)
    assert_equal_trees(hugging_face.load_tower(folder), hugging_face.load_tower(GOLD / "dinov2_giant"))
    folder = copy("dinov3", renamed({r"^layer\.": "model.layer."}))
    assert_equal_trees(hugging_face.load_tower(folder), hugging_face.load_tower(GOLD / "dinov3"))


def test_an_encoder_inside_a_larger_model_loads_alike(copy):
    def classifier(weights):
        return renamed({"^": "dinov2."})(weights) | {"classifier.weight": np.ones((3, 48), np.float32)}

    folder = copy("dinov2", classifier)
    assert_equal_trees(hugging_face.load_tower(folder), hugging_face.load_tower(GOLD / "dinov2"))

    def pair(weights):
        others = ("logit_scale", "text_projection.weight", "visual_projection.weight", "text_model.head.bias")
        old = {"vision_model.embeddings.position_ids": np.arange(37)[None]}
        return renamed({"^": "vision_model."})(weights) | dict.fromkeys(others, np.ones((2, 2), np.float32)) | old

    alone = json.loads((GOLD / "clip" / "config.json").read_text())
    folder = copy("clip", pair, model_type="clip", vision_config=alone)
    assert_equal_trees(hugging_face.load_tower(folder), hugging_face.load_tower(GOLD / "clip"))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_become_float32(copy, dtype):
    folder = copy("dinov3", lambda weights: {k: v.astype(dtype) for k, v in weights.items()})
    _, params = hugging_face.load_tower(folder)
    _, expected = hugging_face.load_tower(GOLD / "dinov3")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01, atol=1e-6), params, expected)


def test_colours_come_from_the_processor_or_the_family(copy):
    folder = copy("dinov2")
    processor = folder / "preprocessor_config.json"

    def colours():
        spec, _ = hugging_face.load_tower(folder, dtype="bfloat16")
        assert spec["dtype"] == "bfloat16"
        return spec["mean"], spec["std"]

    assert colours() == ([0.45, 0.5, 0.55], [0.25, 0.3, 0.35])
    processor.write_text('{"do_normalize": false}')
    assert colours() == ([0.0] * 3, [1.0] * 3)
    processor.unlink()
    assert colours() == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    for content, named in {
        '{"rescale_factor": 0.0078}': "1/255",
        '{"do_rescale": false}': "1/255",
        '{"image_mean": [0.5, 0.5]}': "image_mean",
        '{"image_std": [1, 1, 0]}': "image_std",
        '{"image_std": "1"}': "image_std",
    }.items():
        processor.write_text(content)
        fails(folder, named)


def test_a_hub_name_says_how_to_get_it():
    fails("facebook/dinov2-base", "hf download facebook/dinov2-base --local-dir DIR")


@pytest.mark.parametrize(
    "config, named",
    [
        (dict(model_type="resnet"), "'resnet'.*dinov2, .*dinov3_vit, .*siglip"),
        (dict(model_type=None), "known are"),
        (dict(model_type="clip", vision_config=3), "known are"),
        (dict(hidden_act="relu"), "hidden_act='relu'.*gelu"),
        (dict(num_channels=1), "num_channels=1"),
        (dict(patch_size=[4, 2]), r"patch_size=\[4, 2\].*square"),
        (dict(hidden_size="24"), "hidden_size='24'"),
        (dict(qkv_bias=1), "qkv_bias=1"),
        (dict(num_attention_heads=5), "num_heads=5"),
        (dict(num_hidden_layers=0), "num_hidden_layers=0"),
    ],
)
def test_a_model_that_we_do_not_have_is_named(copy, config, named):
    fails(copy("dinov2", **config), named)


@pytest.mark.parametrize("value", [None, -1, 0, 1, 7, 1.5, "x", [], [3, 4], {}, True])
def test_nonsense_in_the_config_ends_in_one_line(copy, value):
    """Or is no nonsense: the weights still fit."""
    loaded = hugging_face.load_tower(GOLD / "dinov3")[1]
    for key in vision_families.DEFAULTS["dinov3_vit"]:
        try:
            _, params = hugging_face.load_tower(copy("dinov3", **{key: value}))
        except errors.UserError as error:
            assert "\n" not in str(error)
        else:
            assert_equal_trees(params, loaded)


@pytest.mark.parametrize(
    "config, named",
    [
        (dict(num_hidden_layers=3), r"no tensor for layers/\S+ \(.*\) of layer 2.*18 missing"),
        (dict(num_hidden_layers=1), r"encoder.layer.1.\S+ \(.*\) has no place"),
        (dict(mlp_ratio=3), r"mlp.fc1.bias has shape \(48,\).*\(72,\)"),
        (dict(patch_size=2), r"projection.weight has shape \(24, 3, 4, 4\).*\(24, 3, 2, 2\)"),
        (dict(image_size=28), r"position_embeddings has shape \(1, 37, 24\).*\(50, 24\)"),
        (dict(use_swiglu_ffn=True), "mlp.fc1.bias|no tensor for layers/feed_forward/up_gate"),
        (dict(qkv_bias=False), r"attention.attention.key.bias \(24,\) has no place"),
        (dict(model_type="dinov2_with_registers"), "no tensor for embed_prefix/embedding"),
    ],
)
def test_weights_of_another_config_are_named(copy, config, named):
    fails(copy("dinov2", **config), named)


def test_tensors_that_do_not_fit_are_named(copy):
    key = "encoder.layer.1.mlp.fc2.weight"
    patch = "embeddings.patch_embeddings.projection.weight"

    def without(weights):
        return {k: v for k, v in weights.items() if k != key}

    def other(**new):
        return lambda weights: weights | {k.replace("__", "."): v for k, v in new.items()}

    fails(copy("dinov2", without), r"layers/feed_forward/down/kernel \(48, 24\) of layer 1")
    fails(copy("dinov2", lambda w: w | {"encoder.layer.0.gate": w[key]}), "encoder.layer.0.gate")
    fails(copy("dinov2", lambda w: w | {"encoder.layer.0.attention.q_proj.bias": w["layernorm.bias"]}), "both")
    fails(copy("dinov2", lambda w: w | {key: np.ascontiguousarray(w[key].T)}), r"\(48, 24\).*\(24, 48\)")
    fails(copy("dinov2", lambda w: w | {patch: w[patch].reshape(24, 12, 2, 2)}), r"\(24, 12, 2, 2\)")
    fails(copy("dinov2", lambda w: w | {key: w[key].astype(np.int32)}), "I32")
    fails(copy("dinov2", lambda w: w | {key: np.full_like(w[key], np.inf)}), "not finite")


def test_damaged_folders_are_named(copy):
    folder = copy("dinov2")
    fails(folder, "dtype='half'", dtype="half")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-10])
    fails(folder, f"cannot read .*{WEIGHTS}")
    (folder / WEIGHTS).write_bytes(b"")
    fails(folder, f"cannot read .*{WEIGHTS}")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    fails(folder, "pickles")
    (folder / "config.json").write_text("{")
    fails(folder, "config.json is no JSON")
    (folder / "config.json").write_text("[]")
    fails(folder, "no JSON object")
    (folder / "config.json").unlink()
    fails(folder, "no .*config.json")


def test_damaged_shards_are_named(copy):
    folder = copy("siglip")
    index = json.loads((folder / INDEX).read_text())
    key = sorted(index["weight_map"])[0]
    for weight_map, named in {
        "": "weight_map",
        "more": "disagree about absent.weight",
        "less": f"disagree about {key}",
    }.items():
        changed = dict(index["weight_map"])
        if weight_map == "more":
            changed["absent.weight"] = changed[key]
        elif weight_map == "less":
            del changed[key]
        content = index | {"weight_map": changed if weight_map else 3}
        (folder / INDEX).write_text(json.dumps(content))
        fails(folder, named)
    (folder / INDEX).write_text(json.dumps(index))
    (folder / "model-00002-of-00002.safetensors").unlink()
    fails(folder, "cannot read .*model-00002-of-00002.safetensors")
