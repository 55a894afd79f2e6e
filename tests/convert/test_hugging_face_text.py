"""Text models of Hugging Face: configs of all ages, every tensor accounted for, errors that name the thing."""

import json
import pathlib

import jax
import ml_dtypes
import numpy as np
import pytest
import transformers

from lapa_jax import errors, sharding
from lapa_jax.convert import hugging_face, hugging_face_text, text_config, text_families, text_leaves

GOLD = pathlib.Path(__file__).parents[1] / "models" / "gold_text"
WEIGHTS = hugging_face.WEIGHTS
LLAMA3 = dict(factor=4, low_freq_factor=1, high_freq_factor=4, original_max_position_embeddings=32)


def load(folder, mesh=None, **kwargs):
    return hugging_face_text.load(folder, mesh or sharding.make_mesh(devices=jax.devices()[:1]), **kwargs)


def fails(folder, named, **kwargs):
    with pytest.raises(errors.UserError, match=named) as caught:
        load(folder, **kwargs)
    assert "\n" not in str(caught.value)


def assert_equal_trees(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_defaults_are_those_of_transformers():
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    for kind, defaults in text_families.DEFAULTS.items():
        theirs = kinds[kind]().to_dict()
        theirs["hidden_act"] = theirs.get("hidden_activation", theirs.get("hidden_act"))
        ours = {key: value for key, value in defaults.items() if value is not None}
        assert ours == {key: theirs[key] for key in ours}, kind
        named = text_config.parse(dict(model_type=kind, sliding_window=512)).trunk
        heads = theirs["num_key_value_heads"], theirs.get("head_dim", 128)
        assert (named["num_kv_heads"], named["head_dim"]) == heads, kind
        rope = theirs["rope_parameters"]
        if kind == "gemma3_text":
            assert named["local_theta"] == rope["sliding_attention"]["rope_theta"]
            assert named["local_layers"] == [name == "sliding_attention" for name in theirs["layer_types"]]
            rope = rope["full_attention"]
        assert named["theta"] == rope["rope_theta"] and named["rope_scaling"] is None


def parsed(kind, **config):
    return text_config.parse(dict(model_type=kind, **config)).trunk


def test_rotary_positions_of_older_configs():
    now = parsed("llama", rope_parameters=dict(rope_type="llama3", rope_theta=5e5, **LLAMA3))
    assert now["theta"] == 5e5 and now["rope_scaling"] == {"type": "llama3", **LLAMA3}
    assert parsed("llama", rope_theta=5e5, rope_scaling=dict(rope_type="llama3", **LLAMA3)) == now
    assert parsed("llama", rope_theta=5e5, rope_scaling=dict(type="llama3", **LLAMA3)) == now
    scaling = dict(type="linear", factor=8)
    old = parsed("gemma3_text", rope_theta=5e5, rope_local_base_freq=100, rope_scaling=scaling)
    kinds = {
        "full_attention": dict(rope_type="linear", factor=8, rope_theta=5e5),
        "sliding_attention": dict(rope_type="default", rope_theta=100),
    }
    assert old == parsed("gemma3_text", rope_parameters=kinds)
    assert (old["theta"], old["local_theta"], old["rope_scaling"]["factor"]) == (5e5, 100, 8)
    every_third = parsed("gemma3_text", num_hidden_layers=4, sliding_window_pattern=3)
    assert every_third["local_layers"] == [True, True, False, True]


def test_gemma_means_one_activation_by_all_its_names():
    for config in (dict(hidden_act="gelu"), dict(hidden_activation="gelu_pytorch_tanh", hidden_act="gelu"), {}):
        assert parsed("gemma", **config)["activation"] == "gelu_tanh"


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_are_read(copy, dtype):
    folder = copy("llama", lambda weights: {k: v.astype(dtype) for k, v in weights.items()})
    params, expected = load(folder)[1], load(GOLD / "llama")[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0.01), params, expected)


def test_a_head_is_a_pair_where_theirs_is_two_halves():
    theirs = np.arange(12.0).reshape(12, 1)  # two heads of six features
    assert text_leaves.interleaved(theirs, 6)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]


@pytest.mark.parametrize("axes", [(1, 8, 1), (1, 2, 4), (2, 2, 2)])
@pytest.mark.parametrize("name", ["qwen2", "qwen3", "gemma3"])
def test_parts_on_a_mesh_are_the_whole(name, axes, monkeypatch):
    whole = load(GOLD / name)[1]
    monkeypatch.setattr(text_leaves, "_BLOCK", 500)  # a few rows at a time
    mesh = sharding.make_mesh(*axes)
    parts = load(GOLD / name, mesh)[1]
    assert_equal_trees(whole, parts)
    shardings = sharding.tree_shardings(mesh, parts)
    jax.tree.map(lambda leaf, where: leaf.sharding.is_equivalent_to(where, leaf.ndim) or 1 / 0, parts, shardings)
    sizes = {leaf.addressable_shards[0].data.size / leaf.size for leaf in jax.tree.leaves(parts)}
    assert min(sizes) < 0.5


def test_a_text_model_inside_a_larger_one(copy):
    alone = json.loads((GOLD / "llama" / "config.json").read_text())

    def inside(prefix, head):
        def change(weights):
            out = {prefix + key.removeprefix("model." if head else ""): value for key, value in weights.items()}
            if head:
                out[head] = out.pop(prefix + head)
            return out | {"vision_tower.embed.weight": np.ones((2, 2), np.float32)}

        return change

    for prefix, head in (("language_model.", ""), ("model.language_model.", "lm_head.weight")):
        folder = copy("llama", inside(prefix, head), model_type="llava", text_config=alone)
        text, params = load(folder, prefix=prefix)
        assert text == hugging_face_text.text_model(GOLD / "llama")
        assert_equal_trees(params, load(GOLD / "llama")[1])
        fails(folder, "'llava'")
    fails(GOLD / "llama", "no text_config", prefix="language_model.")


def test_tied_heads_are_the_table(copy):
    def untied(weights):
        return weights | {"lm_head.weight": 2 * weights["model.embed_tokens.weight"]}

    def head(folder):
        params = load(folder)[1]
        return params["head_text"]["kernel"] / params["embed_text"]["embedding"].T

    assert (head(GOLD / "llama3") == 1).all()
    assert (head(copy("llama3", untied)) == 1).all()  # stored, and not what transformers uses
    assert (head(copy("llama3", untied, tie_word_embeddings=False)) == 2).all()
    fails(copy("llama3", tie_word_embeddings=False), "no tensor for head_text/kernel")


def test_a_part_is_read_where_the_rest_is_ignored():
    text, params = load(GOLD / "llama")
    abstract = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    del abstract["head_text"]
    found = hugging_face_text.read(GOLD / "llama", text, abstract, ignore="^head_text/")
    assert_equal_trees(found, {key: params[key] for key in abstract})
    with pytest.raises(errors.UserError, match="lm_head.weight has no place"):
        hugging_face_text.read(GOLD / "llama", text, abstract)


def test_constants_of_old_checkpoints_are_no_parameters(copy):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    assert_equal_trees(load(copy("llama", lambda w: w | extra))[1], load(GOLD / "llama")[1])


@pytest.mark.parametrize(
    "config, named",
    [
        (dict(model_type="mamba"), "'mamba'.*llama, mistral, .*gemma3_text"),
        (dict(model_type=None), "known are"),
        (dict(hidden_act="relu"), "hidden_act='relu'.*silu"),
        (dict(attention_bias=True), "attention_bias=True"),
        (dict(mlp_bias=True), "mlp_bias=True"),
        (dict(quantization_config=dict(bits=4)), "quantization_config=.*bits"),
        (dict(partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        (dict(rope_parameters=dict(rope_type="yarn", factor=2.0)), "yarn.*default, linear, llama3"),
        (dict(rope_parameters=dict(rope_type="linear")), "factor=None"),
        (dict(rope_parameters=dict(rope_type="default", partial_rotary_factor=0.5)), "partial_rotary_factor"),
        (dict(rope_parameters=dict(rope_theta="1")), "rope_theta='1'"),
        (dict(rope_parameters=3), "rotary positions 3"),
        (dict(num_key_value_heads=3), "num_kv_heads=3"),
        (dict(head_dim=5), "head_dim=5"),
        (dict(num_attention_heads=0), "num_attention_heads=0"),
        (dict(rms_norm_eps=None), "rms_norm_eps=None"),
        (dict(vocab_size=48.5), "vocab_size=48.5"),
        (dict(tie_word_embeddings=1), "tie_word_embeddings=1"),
    ],
)
def test_a_llama_that_we_do_not_have_is_named(copy, config, named):
    fails(copy("llama", **config), named)


@pytest.mark.parametrize(
    "name, config, named",
    [
        ("qwen2", dict(use_sliding_window=True), "use_sliding_window=True"),
        ("qwen2", dict(layer_types=["sliding_attention"] * 2), "sliding_window=None"),
        ("qwen3", dict(layer_types=["linear_attention"] * 2), "layer_types=.*linear_attention.*2 times"),
        ("gemma3", dict(layer_types=["full_attention"]), "4 times"),
        ("gemma3", dict(layer_types=None, sliding_window_pattern=0), "sliding_window_pattern=0"),
        ("gemma3", dict(sliding_window=None), "sliding_window=None"),
        ("gemma3", dict(final_logit_softcapping=30.0), "final_logit_softcapping=30"),
        ("gemma3", dict(use_bidirectional_attention=True), "use_bidirectional_attention=True"),
        ("gemma", dict(num_hidden_layers="2"), "num_hidden_layers='2'"),
        ("mistral_window", dict(rope_parameters=dict(rope_type="linear", factor=2.0)), "sliding_window=4.*unscal"),
        (
            "gemma3",
            dict(rope_parameters=dict(sliding_attention=dict(rope_type="linear", factor=2.0))),
            "scales positions of sliding_attention",
        ),
    ],
)
def test_a_model_that_we_do_not_have_is_named(copy, name, config, named):
    fails(copy(name, **config), named)


@pytest.mark.parametrize("value", [None, -1, 0, 1, 7, 1.5, "x", [], [3, 4], {}, True])
def test_nonsense_in_the_config_ends_in_one_line(copy, value):
    """Or is no nonsense: the weights still fit."""
    whole = load(GOLD / "gemma3")[1]
    keys = [*text_families.DEFAULTS["gemma3_text"], *text_families.CAN, "rope_parameters", "layer_types"]
    for key in keys:
        try:
            params = load(copy("gemma3", **{key: value}))[1]
        except errors.UserError as error:
            assert "\n" not in str(error)
        else:
            assert jax.tree.structure(params) == jax.tree.structure(whole)


WQ = "model.layers.1.self_attn.q_proj.weight"


def test_tensors_that_do_not_fit_are_named(copy):
    def without(weights):
        return {k: v for k, v in weights.items() if k != WQ}

    fails(copy("llama", without), "body/layers/attention/wq/kernel is there for layers 0, .*has 2")
    fails(copy("llama", lambda w: w | {WQ.replace("1", "2"): w[WQ]}), "is there for layers 0, 1, 2, .*has 2")
    fails(copy("llama", lambda w: w | {"model.gate.weight": w[WQ]}), r"model.gate.weight \(32, 32\) has no place")
    fails(copy("llama", lambda w: w | {WQ.removeprefix("model."): w[WQ]}), "both")
    fails(copy("llama", lambda w: w | {WQ: w[WQ][:, :16].copy()}), rf"{WQ} has shape \(32, 16\).*\(32, 32\)")
    fails(copy("llama", lambda w: w | {WQ: w[WQ].astype(np.int8)}), rf"{WQ} is I8")
    fails(copy("llama", lambda w: w | {WQ: np.full_like(w[WQ], np.inf)}), rf"{WQ} holds values that are not finite")
    bias = {f"model.layers.{i}.self_attn.q_proj.bias": np.zeros(32, np.float32) for i in range(2)}
    fails(copy("llama", lambda w: w | bias), "model.layers.0.self_attn.q_proj.bias has no place")
    fails(copy("qwen2", lambda w: {k: v for k, v in w.items() if "k_proj.bias" not in k}), "attention/wk/bias")


def test_weights_of_another_config_are_named(copy):
    fails(copy("llama", num_hidden_layers=1), "is there for layers 0, 1, and config.json has 1")
    fails(copy("llama", intermediate_size=41), r"_proj.weight has shape .*40.*by config.json .*41")
    fails(copy("llama", vocab_size=50), r"(embed_tokens|lm_head).weight has shape \(48, 32\).*\(50, 32\)")
    fails(copy("mistral", num_key_value_heads=4), r"k_proj.weight has shape \(16, 32\).*\(32, 32\)")
    fails(copy("qwen3", model_type="llama"), "[qk]_norm.weight has no place")


def test_damaged_folders_are_named(copy):
    fails("meta-llama/Llama-2-7b-hf", "hf download meta-llama/Llama-2-7b-hf --local-dir DIR")
    folder = copy("llama")
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-10])
    fails(folder, f"cannot read .*{WEIGHTS}")
    (folder / WEIGHTS).unlink()
    fails(folder, "pickles")
    (folder / "config.json").unlink()
    fails(folder, "no .*config.json")
    folder = copy("qwen3")
    (folder / "model-00002-of-00002.safetensors").unlink()
    fails(folder, "cannot read .*model-00002-of-00002.safetensors")
