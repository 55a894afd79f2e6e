"""The VLM against arrays recorded from the official one: logits, losses, gradients, masks, rounded positions."""

import json

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from official_vlm import BATCHES, GOLD, official_model, official_params, our_name, stream_of

from lapa_jax import generate, losses, optimizers, training, vocab
from lapa_jax.data import official_batches, official_prompts
from lapa_jax.models import rotary
from lapa_jax.models.token_stream import Tokens

pytestmark = pytest.mark.skipif(not GOLD.is_dir(), reason="no ../shared/gold: the recorded arrays are not there")
WEIGHTS = {"latent": {"latent": 0.99, "text": 0.01}, "action": {"action": 1.0}}


def outputs(kind, batch, **options):
    """(logits by head, batch, recorded) of a forward pass over one of the recorded batches."""
    model, params = official_model(kind, **options), official_params(kind)
    tokens, targets, recorded = stream_of(batch)
    names = ("text", "vision", "latent", *(["action"] * (kind == "action")))
    run = jax.jit(lambda p, t: model.apply({"params": p}, t, names, method="logits_of"))
    return run(params, tokens), targets, recorded


@pytest.mark.parametrize("batch", BATCHES)
def test_logits_and_losses(batch):
    kind = "action" if "action" in batch else "latent"
    logits, (ids, kinds, counts), recorded = outputs(kind, batch)
    _, log = losses.stream_cross_entropy(logits, ids, kinds, counts, {}, legacy=kind == "latent")
    text = {"text_logits": logits["text"], "text_logits_tail": logits["text"]}
    for name, ours in {"delta_logits": logits["latent"], **text}.items():
        if name in recorded:
            expected = recorded[name]
            np.testing.assert_allclose(tail(ours, expected, batch), expected, atol=1e-4)
    for name in ("text", "vision"):
        if f"{name}_lse" in recorded:
            lse = jax.nn.logsumexp(logits[name], axis=-1)
            np.testing.assert_allclose(lse, recorded[f"{name}_lse"], atol=1e-4)
    if kind == "action":
        name = "action_logits" if "action_logits" in recorded else "action_logits_tail"
        np.testing.assert_allclose(tail(logits["action"], recorded[name], batch), recorded[name], atol=1e-4)
        np.testing.assert_allclose(log["action_loss"], recorded["action_loss"], atol=1e-5)
        np.testing.assert_allclose(log["action_accuracy"], recorded["action_acc"], atol=1e-6)
    else:
        for ours, theirs in (("latent", "delta"), ("text", "text")):
            np.testing.assert_allclose(log[f"{ours}_loss"], recorded[f"{theirs}_loss"], atol=1e-5)
            np.testing.assert_allclose(log[f"{ours}_accuracy"], recorded[f"{theirs}_acc"], atol=1e-6)


def tail(logits, expected, batch):
    """The places that were recorded; ARRAYS.md says which."""
    if logits.shape == expected.shape:
        return logits
    start = 285 if logits.shape[1] == 384 else 50
    return logits[:, start : start + expected.shape[1]]


@pytest.mark.parametrize("batch", BATCHES)
def test_loss_and_gradients(batch):
    kind = "action" if "action" in batch else "latent"
    model, params = official_model(kind), official_params(kind)
    tokens, (ids, kinds, counts), recorded = stream_of(batch)

    def loss_fn(params):
        names = ("latent", "text") if kind == "latent" else ("action",)
        logits = model.apply({"params": params}, tokens, names, method="logits_of")
        return losses.stream_cross_entropy(logits, ids, kinds, counts, WEIGHTS[kind], legacy=kind == "latent")[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(params)
    np.testing.assert_allclose(loss, recorded["loss"], atol=1e-5)
    flat = flax.traverse_util.flatten_dict(grads, sep="/")
    checked = 0
    for name in recorded:
        what, _, key = name.partition("/")
        if what == "gradnorm":
            norm = np.linalg.norm(flat[our_name(key)])
            np.testing.assert_allclose(norm, recorded[name], rtol=1e-4, atol=1e-8, err_msg=key)
        if what == "grad":
            scale = max(np.abs(recorded[name]).max(), 1e-12)
            np.testing.assert_allclose(flat[our_name(key)] / scale, recorded[name] / scale, atol=1e-4, err_msg=key)
        checked += what in ("grad", "gradnorm")
    assert checked >= len(flat)


@pytest.mark.parametrize("table, dtype", [("exact", "fp32"), ("bfloat16", "bf16")])
@pytest.mark.parametrize("dim", [16, 128])
def test_rotary_tables(table, dtype, dim):
    with np.load(GOLD / "rope_tables.npz") as tables:
        expected = tables[f"hd{dim}_{dtype}"]
    cos, sin = rotary.cos_sin(jnp.arange(512)[None], dim, 5e7, table, 512)
    if table == "bfloat16":  # to the bit
        np.testing.assert_array_equal(np.asarray(cos[0]), expected.real)
        np.testing.assert_array_equal(np.asarray(sin[0]), expected.imag)
    else:
        np.testing.assert_allclose(cos[0] + 1j * sin[0], expected, atol=1e-4)


def test_rounded_positions_in_float32():
    logits, _, _ = outputs("latent", "delta_256_pad", rope="bfloat16", rope_length=512)
    with np.load(GOLD / "forward_bf16_delta_256_pad.npz") as recorded:
        expected = recorded["fp32_with_bf16_rope/delta_logits"]
    np.testing.assert_allclose(logits["latent"], expected, atol=2e-4)
    exact, _, _ = outputs("latent", "delta_256_pad")
    assert np.abs(exact["latent"] - expected).max() > 0.5  # the table matters


def test_bfloat16_as_the_official_code_trains():
    options = dict(rope="bfloat16", rope_length=512, dtype="bfloat16", residual_dtype="float32")
    logits, (ids, kinds, counts), _ = outputs("latent", "delta_256_pad", **options)
    loss, _ = losses.stream_cross_entropy(logits, ids, kinds, counts, WEIGHTS["latent"], legacy=True)
    with np.load(GOLD / "forward_bf16_delta_256_pad.npz") as recorded:
        np.testing.assert_allclose(logits["latent"], recorded["params_fp32/delta_logits"], atol=0.1)
        np.testing.assert_allclose(loss, recorded["params_fp32/loss"], rtol=0.01)


@pytest.mark.parametrize("mask, name", [("attention_mask", "default"), ("attention_mask2", "mask2")])
def test_padding_anywhere(mask, name):
    check_masked(lambda z: z[mask], name)


def test_segments_of_one_row_do_not_see_each_other():
    check_masked(lambda z: z["segment_ids"] + 1, "segment")


def check_masked(segments, name):
    with np.load(GOLD / "forward_masks.npz") as z:
        recorded = dict(z)
    kinds = np.where(recorded["vision_masks"], vocab.VISION, vocab.TEXT)
    kinds = np.where(recorded["delta_masks"], vocab.LATENT, kinds)
    tokens = Tokens(*(jnp.asarray(x, jnp.int32) for x in (recorded["input_ids"], kinds, segments(recorded))))
    model, params = official_model("latent"), official_params("latent")
    logits = model.apply({"params": params}, tokens, ("latent",), method="logits_of")["latent"]
    real = np.asarray(tokens.real)
    np.testing.assert_allclose(logits[real], recorded[f"{name}/delta_logits"][real], atol=1e-4)


def test_the_recorded_sizes_are_those_of_the_model():
    config = json.loads((GOLD / "config.json").read_text())
    shapes = jax.tree.map(np.shape, official_params("action"))
    assert shapes["embed_text"]["embedding"] == (config["base"]["vocab_size"], config["base"]["hidden_size"])
    assert shapes["head_action"]["kernel"][1] == config["action_vocab_size"]


def recorded_prompts(z, which):
    """The prompts of the recorded generation: text, image codes, text."""
    kinds = np.where(z[f"{which}_vision_masks"], vocab.VISION, vocab.TEXT)
    arrays = z[f"{which}_input_ids"], kinds, z[f"{which}_attention_mask"]
    return Tokens(*(jnp.asarray(x, jnp.int32) for x in arrays))


@pytest.mark.parametrize("which", ["batch", "e2e"])
def test_latents_are_generated_as_recorded_but_for_the_end_that_is_none(which):
    with np.load(GOLD / "generate_delta.npz") as z:
        recorded = dict(z)
    model, params = official_model("latent"), official_params("latent")
    prompt = recorded_prompts(recorded, which)
    run = jax.jit(lambda p, t: generate.generate(model, {"params": p}, t, count=4))
    ids = np.asarray(run(params, prompt).ids)
    if which == "batch":
        np.testing.assert_array_equal(ids, recorded["batch_tokens_no_eos_stop"])
        assert (ids == 2).any()  # the id that the official sampler stops at
    ended = np.cumsum(ids == 2, axis=1) - (ids == 2) > 0
    np.testing.assert_array_equal(np.where(ended, 0, ids), recorded[f"{which}_tokens"])


def test_actions_are_drawn_as_recorded():
    with np.load(GOLD / "generate_action.npz") as z:
        recorded = dict(z)
    model, params = official_model("action"), official_params("action")
    prompt = recorded_prompts(recorded, "batch")
    run = jax.jit(lambda p, t: generate.generate(model, {"params": p}, t, name="action", count=7))
    found = run(params, prompt)
    np.testing.assert_array_equal(found.ids, recorded["batch_tokens_greedy"])
    np.testing.assert_allclose(found.logits, recorded["batch_step_logits_greedy"], atol=1e-4)
    logits = generate.kept(jnp.asarray(recorded["batch_step_logits"]), generate.Sampling(1.0, top_k=50))
    drawn = np.argmax(logits + recorded["batch_gumbel"], axis=-1)
    np.testing.assert_array_equal(drawn, recorded["batch_tokens_sampled"])


@pytest.mark.parametrize("kind", ["latent", "action"])
def test_six_steps_of_training(kind):
    """Optimizer, clipping and weights of the losses as in the recorded runs, batch by batch."""
    theirs = {"latent": "delta", "action": "action"}[kind]
    with np.load(GOLD / f"train_{theirs}_fp32.npz") as z:
        recorded = dict(z)
    tokenizer = official_prompts.Tokenizer.read(GOLD / "tokenizer.model")
    lines = (GOLD / "data" / f"{theirs}_small.jsonl").read_text().splitlines()
    sequences = [official_prompts.from_record(tokenizer, json.loads(line)) for line in lines]
    batches = [official_batches.pad(sequences[i : i + 3], 96) for i in (0, 3)]
    model = official_model(kind)
    names = tuple(WEIGHTS[kind])

    def loss_fn(params, variables, batch, key):
        del key
        tokens = Tokens(batch["tokens"], batch["kinds"], jnp.ones_like(batch["tokens"]))
        logits = model.apply({"params": params}, tokens, names, method="logits_of")
        targets = batch["targets"], batch["target_kinds"], batch["loss_mask"]
        loss, log = losses.stream_cross_entropy(logits, *targets, WEIGHTS[kind], legacy=kind == "latent")
        return loss, (log, variables)

    params = official_params("latent")
    if kind == "action":  # new heads begin as the official loader makes them
        with np.load(GOLD / "missing_key_init.npz") as z:
            new = {"embed_action/embedding": z["ate/embedding"], "head_action/kernel": z["action_head/kernel"]}
        params = with_leaves(params, new)
    rate = dict(learning_rate=2e-5, end_learning_rate=2e-5, b2=0.95, clip_norm=1.0)
    tx, _ = optimizers.make(num_steps=100, **rate)
    params = jax.tree.map(jnp.array, params)  # donated
    state = training.TrainState(jnp.int32(0), params, {}, tx.init(params))
    step = training.make_train_step(loss_fn, tx)
    for i in range(6):
        batch = batches[i % 2]
        np.testing.assert_array_equal(batch["tokens"], recorded["batches/input_tokens"][i])
        state, log = step(state, jax.tree.map(jnp.asarray, batch))
        for ours, key in (("loss", "loss"), ("grad_norm", "gradient_norm"), (f"{kind}_loss", f"{theirs}_loss")):
            np.testing.assert_allclose(log[ours], recorded[f"metrics/{key}"][i], rtol=1e-4, err_msg=f"{key} {i}")
    final = flax.traverse_util.flatten_dict(state.params, sep="/")
    for key in recorded:
        if key.startswith("final/"):  # Adam's first steps are signs of gradients: rounding moves some by 2 x 2e-5
            name = our_name(key.removeprefix("final/"))
            np.testing.assert_allclose(final[name], recorded[key], atol=3e-5, err_msg=name)


def with_leaves(tree, leaves):
    flat = flax.traverse_util.flatten_dict(tree, sep="/") | jax.tree.map(jnp.asarray, leaves)
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def test_examples_that_share_a_row_have_the_loss_and_gradients_of_rows_of_their_own():
    tokenizer = official_prompts.Tokenizer.read(GOLD / "tokenizer.model")
    lines = (GOLD / "data" / "delta_small.jsonl").read_text().splitlines()
    sequences = [official_prompts.from_record(tokenizer, json.loads(line)) for line in lines]
    padded = official_batches.pad(sequences, 96)
    padded["segments"] = np.ones_like(padded["tokens"])
    (packed,) = official_batches.fit_together(sequences, 2, 288)
    model, params = official_model("latent"), official_params("latent")

    @jax.jit
    def loss(params, batch):
        tokens = Tokens(batch["tokens"], batch["kinds"], batch["segments"])
        logits = model.apply({"params": params}, tokens, ("latent", "text"), method="logits_of")
        targets = batch["targets"], batch["target_kinds"], batch["loss_mask"]
        return losses.stream_cross_entropy(logits, *targets, WEIGHTS["latent"])[0]

    one, other = (jax.value_and_grad(loss)(params, jax.tree.map(jnp.asarray, b)) for b in (padded, packed))
    np.testing.assert_allclose(one[0], other[0], rtol=1e-5)
    norms = [np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(grads))) for grads in (one[1], other[1])]
    np.testing.assert_allclose(*norms, rtol=1e-4)
