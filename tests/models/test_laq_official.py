"""The whole official LAQ, quantiser and trainer included, against arrays recorded from the official code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_laq_transformer import GOLD, GOLD_SIZES, frames, laq_names, needs_gold, recorded

from lapa_jax import training
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
