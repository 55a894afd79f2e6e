"""Text models of Hugging Face in the trunk: against what transformers recorded (see gold_text/make.py)."""

import functools
import json
import pathlib

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lapa_jax import errors, generate, sharding, vocab
from lapa_jax.convert import hugging_face_text, lapa_model, text_config, text_families
from lapa_jax.models import llama, rotary, sight, vlm
from lapa_jax.models.token_stream import Tokens

GOLD = pathlib.Path(__file__).parent / "gold_text"
MODELS = sorted(path.parent.name for path in GOLD.glob("*/config.json"))
COUNTS = json.loads((GOLD / "counts.json").read_text())


@functools.cache
def loaded(name):
    """(model, params, recorded arrays)"""
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    text, params = hugging_face_text.load(GOLD / name, mesh)
    with np.load(GOLD / name / "recorded.npz") as z:
        return hugging_face_text.model_of(text), params, dict(z)


def tokens_of(recorded, left=False):
    """The recorded batch, with its padding on either side."""
    ids, mask = recorded["ids"], recorded["mask"]
    if left:
        lengths = mask.sum(1)
        ids, mask = (np.stack([np.roll(row, -n) for row, n in zip(x, lengths, strict=True)]) for x in (ids, mask))
    return Tokens.of(jnp.asarray(ids), vocab.TEXT, jnp.asarray(mask))


def logits_of(model, params, tokens):
    run = jax.jit(lambda params, tokens: model.apply({"params": params}, tokens, ("text",), method="logits_of"))
    return run(params, tokens)["text"]


def test_all_families_are_recorded():
    kinds = {json.loads((GOLD / name / "config.json").read_text())["model_type"] for name in MODELS}
    assert kinds == set(text_families.DEFAULTS)
    assert {loaded(name)[0].trunk["num_kv_heads"] for name in MODELS} == {1, 2, 4}


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name):
    model, params, recorded = loaded(name)
    real = recorded["mask"] > 0
    logits = logits_of(model, params, tokens_of(recorded))
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits[real], recorded["logits"][real], rtol=0, atol=1e-4)
    left = tokens_of(recorded, left=True)
    found = logits_of(model, params, left)[np.asarray(left.real)]
    np.testing.assert_allclose(found, recorded["logits"][real], rtol=0, atol=1e-4)


LEFT = [pytest.param(name, True, id=f"{name}-left") for name in ("gemma3", "mistral_window", "qwen2")]


@pytest.mark.parametrize("name, left", [(name, False) for name in MODELS] + LEFT)
def test_greedy_tokens_are_those_of_transformers(name, left):
    model, params, recorded = loaded(name)
    expected = recorded["generated"]
    run = functools.partial(generate.generate, model, name="text", count=expected.shape[1])
    found = jax.jit(run)({"params": params}, tokens_of(recorded, left))
    np.testing.assert_array_equal(found.ids, expected)


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_torch(name):
    model, params, recorded = loaded(name)
    tokens = tokens_of(recorded)
    ids, real = tokens.ids[:, 1:], tokens.real[:, 1:]

    def loss_fn(params):
        chosen = jax.nn.log_softmax(model.apply({"params": params}, tokens, ("text",), method="logits_of")["text"])
        chosen = jnp.take_along_axis(chosen[:, :-1], ids[..., None], axis=-1)[..., 0]
        return -jnp.sum(jnp.where(real, chosen, 0.0)) / jnp.sum(real)

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    np.testing.assert_allclose(loss, recorded["loss"], rtol=1e-5)
    grads = flax.traverse_util.flatten_dict(grads, sep="/")
    if not any("lm_head" in key for key in recorded):
        grads["embed_text/embedding"] += grads.pop("head_text/kernel").T  # one table in torch
    checked = set()
    for key in recorded:
        if key.startswith("gradnorm/"):
            path, layer = text_families.place(key.removeprefix("gradnorm/"), model.trunk.get("post_norm", False))
            grad = grads[path] if layer is None else grads[path][layer]
            np.testing.assert_allclose(np.linalg.norm(grad), recorded[key], rtol=2e-4, atol=1e-6, err_msg=key)
            checked.add(path)
    assert checked == set(grads)


@pytest.mark.parametrize("remat", ["full", "attention"])
def test_remat_changes_no_gradient(remat):
    model, params, recorded = loaded("gemma3")
    tokens = tokens_of(recorded)

    def loss_fn(model, params):
        return jnp.sum(jnp.sin(model.apply({"params": params}, tokens, method="features")))

    plain, other = (
        jax.jit(jax.grad(functools.partial(loss_fn, one)))(params)
        for one in (model, model.clone(trunk=model.trunk | dict(remat=remat)))
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, other)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_bfloat16_computes_the_same_roughly(name):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    text, params = hugging_face_text.load(GOLD / name, mesh, dtype="bfloat16")
    kinds = {path[-1]: leaf.dtype for path, leaf in flax.traverse_util.flatten_dict(params).items()}
    assert kinds.pop("scale") == jnp.float32 and set(kinds.values()) == {jnp.dtype("bfloat16")}
    recorded = loaded(name)[2]
    logits = logits_of(hugging_face_text.model_of(text, dtype=jnp.bfloat16), params, tokens_of(recorded))
    real = recorded["mask"] > 0
    difference = np.abs(logits - recorded["logits"])[real].mean() / np.abs(recorded["logits"][real]).mean()
    assert 1e-4 < difference < 0.05  # the first: it did compute in bfloat16


@pytest.mark.parametrize("name", COUNTS)
def test_published_sizes_have_their_number_of_parameters(name):
    text = text_config.parse(COUNTS[name]["config"])
    params = lapa_model.abstract_params(hugging_face_text.model_of(text), sharding.make_mesh())
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert total - text.tied * text.vocab_size * text.trunk["width"] == COUNTS[name]["parameters"]


@pytest.mark.parametrize("name", ["Llama-3.2-1B", "Qwen3-0.6B", "gemma-3-1b"])
def test_the_cache_holds_heads_of_keys_only(name):
    trunk = text_config.parse(COUNTS[name]["config"]).trunk
    cache = jax.eval_shape(lambda: llama.Trunk(**trunk, dtype=jnp.bfloat16).empty_cache(2, 10))
    sizes = (trunk["depth"], 2, 10, COUNTS[name]["config"]["num_key_value_heads"], trunk["head_dim"])
    assert {leaf.shape for leaf in cache.values()} == {sizes} and trunk["num_heads"] > trunk["num_kv_heads"]


@pytest.mark.parametrize("name", MODELS)
def test_a_spec_lives_in_json_and_in_a_config(name):
    text = hugging_face_text.text_model(GOLD / name)
    assert json.loads(json.dumps(text.trunk)) == text.trunk
    config = ConfigDict(
        dict(size="7b", theta=5e7, remat="none", vocabs=dict(text=48), heads=("text",), dtype="float32")
        | dict(image="features", trunk=text.trunk)
    )
    _, params, recorded = loaded(name)
    logits = logits_of(vlm.from_config(config, 48), params, tokens_of(recorded))
    real = recorded["mask"] > 0
    np.testing.assert_allclose(logits[real], recorded["logits"][real], rtol=0, atol=1e-4)


def test_tables_are_scaled_and_what_images_show_is_not():
    model, params, _ = loaded("gemma")
    tokens = Tokens(*jnp.array([[[5, 0]], [[vocab.TEXT, vocab.IMAGE]], [[1, 1]]]))
    image = jax.random.normal(jax.random.key(0), (1, 1, 32))
    x = model.apply({"params": params}, tokens, image, method="_embedded")
    np.testing.assert_allclose(x[0, 0], 32**0.5 * params["embed_text"]["embedding"][5], rtol=1e-6)
    np.testing.assert_array_equal(x[0, 1], image[0, 0])


@pytest.mark.parametrize(  # of 2, 2, 2 and 1 heads of keys
    "name, axes", [("llama3", (1, 8, 1)), ("llama3", (1, 2, 4)), ("qwen2", (2, 2, 2)), ("gemma", (1, 2, 4))]
)
def test_groups_of_heads_on_a_mesh_give_the_same_loss_and_gradients(name, axes):
    model, params, recorded = loaded(name)
    rows = {"ids": recorded["ids"][[0, 1, 2, 0] * 2], "mask": recorded["mask"][[0, 1, 2, 0] * 2]}
    rows = {key: value.astype(np.int32) for key, value in rows.items()}

    def loss_fn(params, batch):
        tokens = Tokens.of(batch["ids"], vocab.TEXT, batch["mask"])
        logits = model.apply({"params": params}, tokens, ("text",), method="logits_of")["text"]
        return jnp.mean(jnp.where(tokens.real, jax.nn.log_softmax(logits)[..., 3], 0.0))

    run = jax.jit(jax.value_and_grad(loss_fn))
    loss, grads = run(params, rows)
    mesh = sharding.make_mesh(*axes)
    with jax.set_mesh(mesh):
        split = jax.device_put(jax.tree.map(np.asarray, params), sharding.tree_shardings(mesh, params))
        got_loss, got = run(split, sharding.global_batch(mesh, rows))
    np.testing.assert_allclose(got_loss, loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, grads)


@pytest.mark.parametrize("count, spec", [(4, "tensor"), (2, None)])
def test_heads_that_do_not_divide_are_put_together(count, spec):
    mesh = sharding.make_mesh(1, 2, 4)
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.zeros((2, 3, 16)), jax.NamedSharding(mesh, jax.P("fsdp", None, "tensor")))
        y = jax.jit(lambda x: sharding.constrain_heads(x, count))(x)
    assert y.sharding.is_equivalent_to(jax.NamedSharding(mesh, jax.P("fsdp", None, spec)), 3)


def test_a_window_counts_tokens_that_may_be_seen():
    mask = jnp.array([[1, 0, 1, 1, 1, 0]], bool)[None, None]
    assert sight.nearest(mask, 2).astype(int).tolist() == [[[[0, 0, 0, 1, 1, 0]]]]


def test_scaled_frequencies():
    plain = rotary.frequencies(16, 100.0)
    numbers = dict(factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=128)
    found = rotary.frequencies(16, 100.0, {"type": "llama3", **numbers})
    turns = 128 * plain / (2 * np.pi)  # in the original context
    np.testing.assert_allclose(found[turns >= 4], plain[turns >= 4])
    np.testing.assert_allclose(found[turns <= 1], plain[turns <= 1] / 4)
    between = (turns > 1) & (turns < 4)
    assert between.any() and (found[between] < plain[between]).all() and (found[between] > plain[between] / 4).all()
    np.testing.assert_allclose(rotary.frequencies(16, 100.0, {"type": "linear", "factor": 4.0}), plain / 4)


TOY = dict(width=16, depth=2, num_heads=4, mlp_dim=8)


@pytest.mark.parametrize(
    "change, named",
    [
        (dict(num_kv_heads=3), "num_kv_heads=3.*num_heads=4"),
        (dict(head_dim=3), "head_dim=3"),
        (dict(width=18), "width=18"),
        (dict(activation="relu"), "activation='relu'.*silu"),
        (dict(rope_scaling=dict(type="yarn")), "rope_scaling.type='yarn'.*llama3"),
        (dict(rope_scaling=dict(type="linear")), "rope_scaling.*factor"),
        (dict(local_layers=[True]), "local_layers has 1 layers"),
        (dict(local_layers=[True, False]), "local_window=None"),
        (dict(heads=3), "no heads; it takes width"),
        (dict(remat="some"), "remat='some'"),
    ],
)
def test_trunks_that_cannot_be_are_named(change, named):
    with pytest.raises(errors.UserError, match=named):
        llama.sizes(None, **TOY | change)


def test_a_trunk_is_a_size_or_given_whole():
    with pytest.raises(errors.UserError, match="wants depth"):
        llama.sizes(None, width=16)
    assert llama.sizes("debug", num_kv_heads=1) == llama.SIZES["debug"] | dict(num_kv_heads=1)
