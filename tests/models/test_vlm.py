"""The latent-action VLM: who may look at whom, and what the policy makes of it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.models import rotary, vlm

CONFIG = dict(
    size="debug", vocabs=dict(text=20, latent=8), heads=("latent",), num_image_tokens=6, code_length=2,
    remat="none", theta=1e4, dtype="float32", image_stem=dict(channels=4, num_heads=2, keypoints=4),
)
TEXT = np.array([[1, 5, 6, 0, 0], [1, 7, 0, 0, 0]], np.int32)
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
LATENTS = np.array([[3, 1, 2], [0, 7, 5]], np.int32)


def enlarged(params):
    """Weights large enough that each input shows in the logits."""
    return jax.tree.map(lambda p: 5.0 * p if p.ndim > 1 else p, params)


@pytest.fixture(scope="module")
def model():
    return vlm.from_config(CONFIG, text_vocab=12)


@pytest.fixture(scope="module")
def params(model):
    return enlarged(jax.jit(model.init)(jax.random.key(0), TEXT, IMAGE, LATENTS)["params"])


@pytest.fixture(scope="module")
def logits(model, params):
    apply = jax.jit(lambda *inputs: model.apply({"params": params}, *inputs)["latent"])
    return lambda text=TEXT, image=IMAGE, latents=LATENTS: np.asarray(apply(text, image, latents))


@pytest.mark.parametrize("length", [1, 2, 3])
def test_one_row_of_logits_a_latent_token(logits, length):
    out = logits(latents=LATENTS[:, :length])
    assert out.shape == (2, length, 8) and out.dtype == np.float32
    np.testing.assert_allclose(out, logits()[:, :length], atol=1e-4)


def test_a_latent_is_predicted_from_those_before_it_only(logits):
    for changed in range(3):
        latents = LATENTS.copy()
        latents[:, changed] = (latents[:, changed] + 1) % 8
        moved = np.abs(logits(latents=latents) - logits()).max(axis=(0, 2))
        assert (moved[: changed + 1] == 0).all() and (moved[changed + 1 :] > 1e-3).all()


def test_instruction_and_image_matter(logits):
    for row in range(2):
        text, image = TEXT.copy(), IMAGE.copy()
        text[row, 1], image[row] = 9, 255 - IMAGE[row]
        for changed in (logits(text=text), logits(image=image)):
            moved = np.abs(changed - logits()).max(axis=2)
            assert (moved[row] > 1e-3).all() and (moved[1 - row] == 0).all()


def test_the_order_of_words_and_of_patches_matters(logits):
    swapped, mirrored = TEXT[:, [0, 2, 1, 3, 4]], IMAGE[:, :, ::-1]
    assert np.abs(logits(text=swapped) - logits())[0].max() > 1e-3
    assert np.abs(logits(image=mirrored) - logits()).max() > 1e-3


def test_padding_embeddings_are_never_read(model, params, logits):
    table = params["embed_text"]["embedding"].at[0].set(100.0)
    other = {**params, "embed_text": {"embedding": table}}
    changed = model.apply({"params": other}, TEXT, IMAGE, LATENTS)["latent"]
    np.testing.assert_allclose(changed, logits(), atol=1e-4)


def test_one_example_does_not_hang_on_the_padding_of_another(logits):
    longer = TEXT.copy()
    longer[1] = [1, 7, 8, 9, 10]
    np.testing.assert_allclose(logits(text=longer)[0], logits()[0], atol=1e-5)


def test_gradients_reach_every_parameter_but_unused_rows(model, params):
    def loss_fn(params):
        return jnp.mean(jnp.square(model.apply({"params": params}, TEXT, IMAGE, LATENTS)["latent"] - 1.0))

    for path, grad in jax.tree.leaves_with_path(jax.jit(jax.grad(loss_fn))(params)):
        assert np.isfinite(grad).all() and np.any(grad), path


VISION = CONFIG | dict(
    vocabs=dict(text=20, latent=8, vision=30), heads=("latent", "text", "vision"), num_image_tokens=4,
    image_stem=None,
)
IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)


@pytest.fixture(scope="module")
def vision():
    """(model, params) that take images as vision tokens, as the published model does."""
    model = vlm.from_config(VISION, 12)
    return model, enlarged(jax.jit(model.init)(jax.random.key(0), TEXT, IDS, LATENTS)["params"])


def test_images_may_come_as_vision_tokens(vision):
    model, params = vision
    assert {name for name in params if name.startswith(("embed", "head"))} == {
        f"{kind}_{name}" for kind in ("embed", "head") for name in ("text", "latent", "vision")
    }
    out = model.apply({"params": params}, TEXT, IDS, LATENTS)
    assert set(out) == {"latent"} and out["latent"].shape == (2, 3, 8)
    other = model.apply({"params": params}, TEXT, IDS[:, ::-1], LATENTS)
    assert np.abs(out["latent"] - other["latent"]).max() > 1e-3


def test_more_padding_changes_no_logits(vision):
    model, params = vision
    short, long = (
        model.apply({"params": params}, np.pad(TEXT, ((0, 0), (0, extra))), IDS, LATENTS)["latent"]
        for extra in (0, 4)
    )
    np.testing.assert_allclose(short, long, atol=1e-3)


def test_remat_and_bfloat16_compute_the_same():
    config = CONFIG | dict(remat="full", dtype="bfloat16")
    model, plain = vlm.from_config(config, 12), vlm.from_config(CONFIG, 12)
    params = plain.init(jax.random.key(0), TEXT, IMAGE, LATENTS)["params"]
    shapes = jax.eval_shape(model.init, jax.random.key(0), TEXT, IMAGE, LATENTS)["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )
    out, expected = (m.apply({"params": params}, TEXT, IMAGE, LATENTS)["latent"] for m in (model, plain))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, expected, atol=0.03 * np.abs(expected).max() + 1e-3)


def test_rotary_keeps_lengths_and_depends_on_distance_alone():
    x = np.random.default_rng(0).normal(size=(1, 1, 2, 8)).astype(np.float32)
    table = rotary.cos_sin(jnp.arange(6)[None], 8, 100.0)
    turned = np.asarray(rotary.rotate(jnp.tile(x, (1, 6, 1, 1)), *table))
    np.testing.assert_allclose(turned[:, :1], x, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1).repeat(6, 1), rtol=1e-5)
    dots = np.einsum("qnd,knd->qk", turned[0], turned[0])
    np.testing.assert_allclose(dots[0, 2], dots[3, 5], rtol=1e-4)
    assert abs(dots[0, 2] - dots[0, 4]) > 1e-2


def test_a_text_table_of_no_rows_takes_the_tokenizers_size():
    model = vlm.from_config(CONFIG | dict(vocabs=dict(text=0, latent=8)), text_vocab=12)
    assert model.vocabs["text"] == 12


@pytest.mark.parametrize(
    "config, text_vocab, message",
    [(CONFIG | dict(size="9b"), 12, "9b.*debug"), (CONFIG, 21, "vocabs.text=20.*21")],
)
def test_impossible_configs_are_named(config, text_vocab, message):
    with pytest.raises(errors.UserError, match=message):
        vlm.from_config(config, text_vocab)
