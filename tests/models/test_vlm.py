"""The latent-action VLM: who may look at whom, how images come, and what sharing a row changes: nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, vocab
from lapa_jax.models import rotary, vlm
from lapa_jax.models.token_stream import Tokens

CONFIG = dict(
    size="debug", vocabs=dict(text=20, vision=0, latent=8), heads=("latent",), image="stem",
    remat="none", theta=1e4, dtype="float32", image_stem=dict(channels=4, num_heads=2, keypoints=4),
)
TEXT = np.array([[1, 5, 6, 0, 0], [1, 7, 0, 0, 0]], np.int32)
IMAGE = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
LATENTS = np.array([[3, 1, 2], [0, 7, 5]], np.int32)
START = 1


def sequence(words, latents, places):
    """(ids, kinds) of words, image, start and latents."""
    parts = [
        (words, vocab.TEXT), (places, vocab.IMAGE), ([START], vocab.TEXT), (latents, vocab.LATENT),
    ]  # fmt: skip
    return [np.concatenate(x) for x in zip(*((ids, [kind] * len(ids)) for ids, kind in parts), strict=True)]


def stream(text=TEXT, latents=LATENTS, places=None, more=0):
    """Each example in a row of its own, padded on the left, so that latents end it."""
    rows = []
    for words, codes in zip(text, latents, strict=True):
        words = words[words > 0]
        where = [*range(len(words)), text.shape[1]] if places is None else list(range(places))
        rows.append(sequence(words, codes, where))
    length = max(len(ids) for ids, _ in rows) + more
    padded = [[np.pad(x, (length - len(x), 0)) for x in (ids, kinds, np.ones(len(ids)))] for ids, kinds in rows]
    return Tokens(*(jnp.asarray(np.stack(x), jnp.int32) for x in zip(*padded, strict=True)))


def enlarged(params):
    """Weights large enough that each input shows in the logits."""
    return jax.tree.map(lambda p: 5.0 * p if p.ndim > 1 else p, params)


def latent_logits(model, params, tokens, image, text=None, count=3):
    """float32[B, count, K]: the logits that each of the last latents was to be predicted from."""
    hidden = model.apply({"params": params}, tokens, image, text)
    return model.apply({"params": params}, hidden[:, -count - 1 : -1], method="logits")


@pytest.fixture(scope="module")
def model():
    return vlm.from_config(CONFIG, text_vocab=12)


@pytest.fixture(scope="module")
def params(model):
    init = jax.jit(model.init)
    return enlarged(init(jax.random.key(0), stream(), IMAGE[:, None], TEXT[:, None])["params"])


@pytest.fixture(scope="module")
def logits(model, params):
    apply = jax.jit(lambda *inputs: latent_logits(model, params, *inputs))
    return lambda text=TEXT, image=IMAGE, latents=LATENTS: np.asarray(
        apply(stream(text, latents), image[:, None], text[:, None])
    )


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
    swapped[1] = TEXT[1]
    assert np.abs(logits(text=swapped) - logits())[0].max() > 1e-3
    assert np.abs(logits(image=mirrored) - logits()).max() > 1e-3


def test_padding_embeddings_are_never_read(model, params, logits):
    table = params["embed_text"]["embedding"].at[0].set(100.0)
    other = {**params, "embed_text": {"embedding": table}}
    changed = latent_logits(model, other, stream(), IMAGE[:, None], TEXT[:, None])
    np.testing.assert_allclose(changed, logits(), atol=1e-4)


def test_one_example_does_not_hang_on_the_padding_of_another(logits):
    longer = TEXT.copy()
    longer[1] = [1, 7, 8, 9, 10]
    np.testing.assert_allclose(logits(text=longer)[0], logits()[0], atol=1e-5)


def test_gradients_reach_every_parameter_but_unused_rows(model, params):
    def loss_fn(params):
        return jnp.mean(jnp.square(latent_logits(model, params, stream(), IMAGE[:, None], TEXT[:, None]) - 1.0))

    for path, grad in jax.tree.leaves_with_path(jax.jit(jax.grad(loss_fn))(params)):
        assert np.isfinite(grad).all() and np.any(grad), path


TOKENS = CONFIG | dict(
    image="tokens", vocabs=dict(text=20, latent=8, vision=30), heads=("latent", "text", "vision"),
)  # fmt: skip
IDS = np.array([[3, 1, 4, 1], [5, 9, 2, 6]], np.int32)
FEATURES = CONFIG | dict(image="features", projector=dict(hidden=16))
SEEN = np.random.default_rng(1).normal(size=(2, 4, 5)).astype(np.float32)
FORMS = {"tokens": (TOKENS, IDS), "features": (FEATURES, SEEN)}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    """(model, params, image): images come as ids of a tokenizer, or as features of a frozen encoder."""
    config, image = FORMS[request.param]
    model = vlm.from_config(config, 12)
    params = jax.jit(model.init)(jax.random.key(0), stream(places=4), image[:, None])["params"]
    return model, enlarged(params), image


def test_every_form_of_image_matters_place_by_place(form):
    model, params, image = form
    out = latent_logits(model, params, stream(places=4), image[:, None])
    other = latent_logits(model, params, stream(places=4), image[:, None, ::-1])
    assert out.shape == (2, 3, 8) and np.abs(out - other).max() > 1e-3
    tables = {name for name in params if name.startswith(("embed", "head"))}
    assert ("head_vision" in tables) == ("embed_vision" in tables) == (model.image == "tokens")


def test_more_padding_changes_no_logits(form):
    model, params, image = form
    short, long = (latent_logits(model, params, stream(places=4, more=n), image[:, None]) for n in (0, 4))
    np.testing.assert_allclose(short, long, atol=1e-3)


def together(places):
    """Both examples in one row, and what the row's images are counted by."""
    parts = [
        sequence(words[words > 0], codes, nth * places + np.arange(places))
        for nth, (words, codes) in enumerate(zip(TEXT, LATENTS, strict=True))
    ]
    segments = np.repeat([1, 2], [len(ids) for ids, _ in parts])
    rows = (*(np.concatenate(x) for x in zip(*parts, strict=True)), segments)
    return Tokens(*(jnp.asarray(x, jnp.int32)[None] for x in rows)), [len(ids) for ids, _ in parts]


def test_examples_that_share_a_row_do_not_see_each_other(form):
    model, params, image = form
    alone = latent_logits(model, params, stream(places=4), image[:, None])
    tokens, (first, second) = together(4)
    np.testing.assert_array_equal(tokens.positions[0], [*range(first), *range(second)])
    hidden = model.apply({"params": params}, tokens, image[None])
    ends = np.array([first, first + second])
    places = ends[:, None] - 4 + np.arange(3)
    shared = model.apply({"params": params}, hidden[0, places], method="logits")
    np.testing.assert_allclose(shared, alone, atol=1e-3)


@pytest.mark.parametrize(
    "config, image, message",
    [
        (TOKENS, SEEN[:, None], r"model.image=tokens takes integer\[B, E, P\], not float32\[2, 1, 4, 5\]"),
        (FEATURES, IDS[:, None], r"features takes floating\[B, E, P, F\], not int32\[2, 1, 4\]"),
        (CONFIG, IMAGE, r"stem takes uint8\[B, E, H, W, 3\], not uint8\[2, 16, 16, 3\]"),
    ],
)
def test_images_of_another_form_are_named(config, image, message):
    with pytest.raises(errors.UserError, match=message):
        vlm.from_config(config, 12).init(jax.random.key(0), stream(places=4), image, TEXT[:, None])


def test_remat_and_bfloat16_compute_the_same():
    config = CONFIG | dict(remat="full", dtype="bfloat16")
    model, plain = vlm.from_config(config, 12), vlm.from_config(CONFIG, 12)
    inputs = stream(), IMAGE[:, None], TEXT[:, None]
    params = plain.init(jax.random.key(0), *inputs)["params"]
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(
        lambda x: (x.shape, x.dtype), params
    )
    out, expected = (latent_logits(m, params, *inputs) for m in (model, plain))
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
    [
        (CONFIG | dict(size="9b"), 12, "9b.*debug"),
        (CONFIG, 21, "vocabs.text=20.*21"),
        (CONFIG | dict(image="smell"), 12, "smell.*tokens, features, stem"),
        (CONFIG | dict(image="tokens"), 12, "model.vocabs.vision"),
        (CONFIG | dict(heads=("latent", "action")), 12, "'action'"),
    ],
)
def test_impossible_configs_are_named(config, text_vocab, message):
    with pytest.raises(errors.UserError, match=message):
        vlm.from_config(config, text_vocab)
