"""The whole official LAQ, quantiser and trainer included, against arrays recorded from the official code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_laq_transformer import GOLD, GOLD_SIZES, frames, laq_names, needs_gold, recorded

from lapa_jax import sharding, training
from lapa_jax.models import laq
from lapa_jax.models.quantizers import nsvq

CASES = ("few_used", "few_used_uneven", "many_used", "equal", "none_used", "all_used")


def official(length: int, num_codes: int = 8, **sizes) -> laq.LatentActionQuantizer:
    args = GOLD_SIZES | sizes
    dim = args.pop("code_dim")
    return laq.LatentActionQuantizer(
        backbone="transformer", backbone_args=args | {"legacy": True}, quantizer="nsvq_official",
        num_codes=num_codes, code_length=length, code_dim=dim,
    )


def imported(state: dict[str, np.ndarray]) -> dict:
    body, codebook = laq_names.from_official(state)
    return {"body": body, "quantize": {"codebook": jnp.asarray(codebook)}}


def counts() -> dict:
    own = dict(used=jnp.zeros(8, jnp.int32), steps=jnp.int32(0), batch_size=jnp.int32(3))
    return {"codebook": {"quantize": own}}


@needs_gold
@pytest.mark.parametrize("case", CASES)
def test_codebook_is_replaced_as_officially(case):
    with np.load(GOLD / "codebook_replacement.npz") as arrays:
        gold = {k.split("/", 1)[1]: arrays[k] for k in arrays.files if k.startswith(f"{case}/")}
    order = np.zeros(8, np.int64)
    if "randperm" in gold:
        order[: len(gold["randperm"])] = gold["randperm"]
    noise = np.zeros((8, gold["before"].shape[1]), np.float32)
    noise[: len(gold["randn"])] = gold["randn"]
    new = nsvq.replace_official(gold["before"], gold["used"], int(gold["num_batches"]), order, noise)
    np.testing.assert_array_equal(new, gold["after"])


@needs_gold
def test_inference_from_the_published_names():
    gold, model = recorded(4, "inference"), official(4)
    variables = {"params": imported(recorded(4, "params")), **counts()}
    frame, next_frame = frames(gold["video_u8"])
    run = jax.jit(functools.partial(model.apply, method="encode"))
    latent = run(variables, frame, next_frame)
    np.testing.assert_array_equal(latent.codes, gold["indices"])
    np.testing.assert_allclose(latent.z.reshape(gold["vq_diff"].shape), gold["vq_diff"], atol=1e-4)
    rebuilt = model.apply(variables, frame, latent.codes, method="decode")
    np.testing.assert_allclose(rebuilt, np.clip(gold["recon"], 0, 1).transpose(0, 2, 3, 1), atol=1e-4)
    forced = model.apply(variables, frame, jnp.full((3, 4), 5), method="decode")
    np.testing.assert_allclose(forced, np.clip(gold["recon_user_int"], 0, 1).transpose(0, 2, 3, 1), atol=1e-4)


TRANSFORMERS = dict(enc_spatial="encoder_spatial", enc_temporal="encoder_temporal", dec_spatial="decoder_spatial")
PARTS = dict(peg="peg", self_attn="attention", cross_attn="cross_attention", ff="feed_forward")
FULL = dict(width=128, num_heads=2, head_dim=64, image_size=256, patch_size=32, depth_spatial=1, depth_temporal=1)
CASES_OF_MODELS = {"seq4": {}, "full_geometry_seq4": FULL | {"code_dim": 32}}


def arrays_of(case: str, name: str) -> dict[str, np.ndarray]:
    with np.load(GOLD / case / f"{name}.npz") as arrays:
        return {key: arrays[key] for key in arrays.files}


def intermediates(case: str) -> tuple[dict, dict]:
    """What every module of ours returns, by path, and the recorded inputs and outputs."""
    gold, model = arrays_of(case, "inference"), official(4, **CASES_OF_MODELS[case])
    variables = {"params": imported(arrays_of(case, "params")), **counts()}
    run = jax.jit(functools.partial(model.apply, capture_intermediates=True, mutable=["intermediates"]))
    _, found = run(variables, *frames(gold["video_u8"]))
    paths = jax.tree.leaves_with_path(found["intermediates"])
    return {sharding.path_name(path): leaf for path, leaf in paths}, gold


def near(ours: jax.Array, gold: np.ndarray, what: str) -> None:
    np.testing.assert_allclose(np.asarray(ours).reshape(gold.shape), gold, atol=1e-4, rtol=1e-4, err_msg=what)


@needs_gold
def test_every_layer_returns_what_the_official_one_did():
    ours, _ = intermediates("seq4")
    blocks = arrays_of("seq4", "blocks")
    for name, value in blocks.items():
        transformer, *rest = name.split(".")
        place = TRANSFORMERS[transformer.removesuffix("_transformer")]
        layer = "norm_out" if rest == ["out"] else f"layers_{rest[0]}/{PARTS[rest[1]]}"
        near(ours[f"body/{place}/{layer}/__call__/0"], value, name)
    assert len(blocks) == 23


@needs_gold
@pytest.mark.parametrize("case", CASES_OF_MODELS)
def test_every_recorded_stage_is_met(case):
    ours, gold = intermediates(case)
    near(ours["body/position_bias/__call__/0"], gold["attn_bias"], "attn_bias")
    near(ours["body/project_out/__call__/0"], gold["dec_in_actions"], "dec_in_actions")
    first = np.moveaxis(np.asarray(ours["body/code_encoder/__call__/0"]), 1, 0)
    near(first[0], gold["vq_first"], "vq_first")
    near(first[1], gold["vq_last"], "vq_last")
    np.testing.assert_array_equal(ours["quantize/__call__/0/codes"], gold["indices"])
    near(ours["__call__/0/latent/z"], gold["vq_diff"], "vq_diff")
    near(ours["__call__/0/reconstruction"], gold["recon"].transpose(0, 2, 3, 1), "recon")


@needs_gold
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES_OF_MODELS)
def test_training_loss_and_gradients(case, monkeypatch):
    """The loss to 1e-5, each gradient to 1e-4 of its length, with the recorded noise."""
    gold, train = arrays_of(case, "inference"), arrays_of(case, "train")
    model, (frame, target) = official(4, **CASES_OF_MODELS[case]), frames(gold["video_u8"])
    monkeypatch.setattr(nsvq, "standard_normal", lambda key, shape: train["noise"].reshape(shape))

    @jax.jit
    @jax.value_and_grad
    def loss_fn(params):
        out, _ = model.apply(
            {"params": params, **counts()}, frame, target, train=True, mutable=["codebook"],
            rngs={"noise": jax.random.key(0)},
        )
        return jnp.mean(jnp.square(out.reconstruction - target))

    loss, grads = loss_fn(imported(arrays_of(case, "params")))
    np.testing.assert_allclose(loss, train["loss"], rtol=1e-5)
    np.testing.assert_allclose(optax.tree.norm(grads), train["global_grad_norm"], rtol=1e-4)
    ours = {sharding.path_name(path): np.asarray(leaf) for path, leaf in jax.tree.leaves_with_path(grads)}
    checked = 0
    for key, value in arrays_of(case, "grads").items():
        if not value.size:  # null keys and values that self-attention has none of
            continue
        if key == "vq.codebooks":
            name = "quantize/codebook"
        else:
            name, value = f"body/{laq_names.rename(key)}", laq_names.relayout(key, value)
        # Some cancel to rounding noise, such as a bias that all logits of a softmax share.
        length = max(np.linalg.norm(value), 1e-4 * train["global_grad_norm"])
        assert np.linalg.norm(ours[name] - value) < 1e-4 * length, key
        checked += 1
    assert checked > 15


@needs_gold
@pytest.mark.slow
def test_twelve_steps_of_the_official_trainer(monkeypatch):
    """Loss, gradient norm, codes, counts and codebook after each step; step 10 replaces unused codes."""
    with np.load(GOLD / "trajectory" / "trajectory.npz") as arrays:
        gold = {key: arrays[key] for key in arrays.files}
    pair = frames(recorded(4, "inference")["video_u8"])
    model, current = official(4), {}
    # The official noise comes in as an argument; everything else is what training runs.
    monkeypatch.setattr(nsvq, "standard_normal", lambda key, shape: current["noise"].reshape(shape))

    def loss_fn(params, variables, batch, key):
        out, new = model.apply(
            {"params": params, **variables}, *pair, train=True, mutable=list(variables), rngs={"noise": key}
        )
        log = {"unique": jnp.sum(jnp.bincount(out.latent.codes.reshape(-1), length=8) > 0)}
        return jnp.mean(jnp.square(out.reconstruction - pair[1])), (log, new)

    def maintain(params, variables, key):
        state = {"params": params, **variables}
        _, new = model.apply(state, method="maintain", mutable=list(state), rngs={"noise": key})
        state |= new
        return state.pop("params"), state

    tx = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-4, b1=0.9, b2=0.99, eps=1e-8))
    step = training.make_train_step(loss_fn, tx, 0, maintain).__wrapped__

    @jax.jit
    def run(state, noise):
        current["noise"] = noise
        return step(state, {})

    params = imported(recorded(4, "params"))
    state = training.TrainState(jnp.int32(0), params, counts(), tx.init(params))
    found = {"losses": [], "grad_norms": [], "num_unique": [], "codebooks": [], "codebooks_used": []}
    for i in range(12):
        state, log = run(state, gold["train_noise"][i])
        if i == 0:  # the official trainer passes its validation batch, which counts uses too
            current["noise"] = gold["valid_noise_step0"]
            variables = {"params": state.params, **state.variables}
            _, new = model.apply(
                variables, *pair, train=True, mutable=["codebook"], rngs={"noise": jax.random.key(0)}
            )
            new["codebook"]["quantize"]["steps"] -= 1
            state = state.replace(variables=dict(new))
        own = state.variables["codebook"]["quantize"]
        values = (log["loss"], log["grad_norm"], log["unique"], state.params["quantize"]["codebook"], own["used"])
        for name, value in zip(found, values, strict=True):
            found[name].append(np.asarray(value))
    np.testing.assert_allclose(found["losses"], gold["losses"], atol=1e-4)
    np.testing.assert_allclose(found["grad_norms"], gold["grad_norms"], rtol=1e-3)
    np.testing.assert_array_equal(found["num_unique"], gold["num_unique"])
    np.testing.assert_array_equal(found["codebooks_used"], gold["codebooks_used"])
    np.testing.assert_allclose(found["codebooks"], gold["codebooks"], atol=1e-3)
