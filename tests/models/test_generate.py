"""Cached generation is generation without a cache; choices obey their limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import errors, generate, vocab
from lapa_jax.generate import Sampling
from lapa_jax.models import token_stream, vlm
from lapa_jax.models.token_stream import Tokens

COUNT = 3


@pytest.fixture(scope="module")
def model():
    return vlm.LatentActionVLM(
        vocabs=dict(text=20, vision=30, latent=8, action=11),
        heads=("latent", "action", "text", "vision"),
        trunk=dict(width=32, depth=2, num_heads=4, mlp_dim=64),
        image="features",
    )


EXAMPLE = Tokens.of(jnp.ones((1, 4), jnp.int32), vocab.TEXT), jnp.ones((1, 1, 2, 5))


@pytest.fixture(scope="module")
def variables(model):
    return make_params(model)


def make_params(model):
    params = jax.jit(model.init)(jax.random.key(0), *EXAMPLE)
    return jax.tree.map(lambda p: 4.0 * p if p.ndim > 1 else p, params)


def prompts(left=False):
    """Three rows of 5 to 9 real tokens, padded to 9."""
    random = np.random.default_rng(0)
    rows = []
    for count in (5, 9, 7):
        ids, kinds = random.integers(1, 8, count), random.choice([vocab.TEXT, vocab.VISION], count)
        pad = (9 - count, 0) if left else (0, 9 - count)
        rows.append([np.pad(x, pad) for x in (ids, kinds, np.ones(count, int))])
    return Tokens(*(jnp.asarray(np.stack(x), jnp.int32) for x in zip(*rows, strict=True)))


def real_part(tokens, row):
    return jax.tree.map(lambda x: x[row : row + 1][:, np.asarray(tokens.real[row])], tokens)


def without_cache(model, variables, prompt, name, count):
    """Row by row, the whole sequence anew for each token."""
    found, logits = [], []
    for row in range(prompt.ids.shape[0]):
        one = real_part(prompt, row)
        ids = []
        for _ in range(count):
            out = model.apply(variables, one, (name,), method="logits_of")[name][:, -1]
            logits.append(out[0])
            ids.append(int(jnp.argmax(out)))
            more = Tokens.of(jnp.array([[ids[-1]]]), vocab.NAMES.index(name))
            one = token_stream.concatenate(one, more)
        found.append(ids)
    return np.array(found), np.stack(logits).reshape(len(found), count, -1)


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", ["latent", "action", "text"])
def test_greedy_with_a_cache_is_greedy_without(model, variables, name, left):
    prompt = prompts(left)
    run = jax.jit(functools.partial(generate.generate, model, name=name, count=COUNT))
    found = run(variables, prompt)
    ids, logits = without_cache(model, variables, prompt, name, COUNT)
    np.testing.assert_array_equal(found.ids, ids)
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)


FORMS = {
    "plain": {},
    "local": dict(local_layers=(True, False), local_window=3),
    "lora": dict(lora=dict(rank=2, alpha=4.0, layers="attention")),
    "remat": dict(remat="full"),
}


@pytest.mark.parametrize("name", FORMS)
def test_layers_apart_are_the_same_network(model, name):
    model = model.clone(trunk=model.trunk | FORMS[name])
    params = make_params(model)
    apart, theirs = vlm.layers_apart(model, params["params"])
    shapes = jax.eval_shape(apart.init, jax.random.key(0), *EXAMPLE)["params"]
    assert jax.tree.map(jnp.shape, theirs) == jax.tree.map(jnp.shape, shapes)
    both = (model, params), (apart, {"params": theirs})
    first, second = (jax.jit(functools.partial(generate.generate, m, count=COUNT))(v, prompts()) for m, v in both)
    np.testing.assert_array_equal(first.ids, second.ids)
    np.testing.assert_allclose(first.logits, second.logits, rtol=1e-5, atol=1e-5)


def test_a_prompt_of_image_features(model, variables):
    image = jax.random.normal(jax.random.key(1), (3, 1, 2, 5))
    places = Tokens.of(jnp.broadcast_to(jnp.arange(2), (3, 2)), vocab.IMAGE)
    prompt = token_stream.concatenate(places, prompts(left=True))
    first = generate.generate(model, variables, prompt, image, count=1)
    other = generate.generate(model, variables, prompt, image[:, :, ::-1], count=1)
    hidden = model.apply(variables, prompt, image)[:, -1]
    np.testing.assert_allclose(first.logits[:, 0], model.apply(variables, hidden, method="logits"), atol=1e-4)
    assert np.abs(first.logits - other.logits).max() > 1e-3


def test_drawing_is_a_function_of_the_key(model, variables):
    run = functools.partial(generate.generate, model, variables, prompts(), count=COUNT)
    drawn = [run(sampling=Sampling(1.0), key=jax.random.key(seed)).ids for seed in (0, 0, 1)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert (drawn[0] != drawn[2]).any()


def test_forbidden_ids_do_not_occur(model, variables):
    allowed = jnp.arange(11) < jnp.array([[2], [1], [3]])
    sampling, key = Sampling(5.0), jax.random.key(3)
    found = generate.generate(
        model, variables, prompts(), name="action", count=3, sampling=sampling, key=key, allowed=allowed
    )
    assert (found.ids < jnp.array([2, 1, 3])).all()


LOGITS = jnp.log(jnp.array([[0.5, 0.05, 0.3, 0.15]]))


@pytest.mark.parametrize(
    "sampling, possible",
    [
        (Sampling(1.0), {0, 1, 2, 3}),
        (Sampling(1.0, top_k=2), {0, 2}),
        (Sampling(1.0, top_k=9), {0, 1, 2, 3}),
        (Sampling(1.0, top_p=0.4), {0}),
        (Sampling(1.0, top_p=0.6), {0, 2}),
        (Sampling(1.0, top_p=0.9), {0, 2, 3}),
        (Sampling(1.0, top_k=3, top_p=0.6), {0, 2}),
        (generate.GREEDY, {0}),
    ],
    ids=str,
)
def test_what_can_be_drawn(sampling, possible):
    keys = jax.random.split(jax.random.key(0), 500)
    drawn = jax.vmap(lambda key: generate.choose(LOGITS, sampling, key)[0])(keys)
    assert set(np.asarray(drawn).tolist()) == possible


def test_draws_have_the_odds_of_the_logits_at_a_temperature():
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: generate.choose(LOGITS, Sampling(2.0), key)[0])(keys)
    odds = np.bincount(drawn, minlength=4) / 4000
    np.testing.assert_allclose(odds, jax.nn.softmax(LOGITS[0] / 2.0), atol=0.03)


@pytest.mark.parametrize("values", [dict(temperature=-1.0), dict(top_p=0.0), dict(top_p=1.5), dict(top_k=0)])
def test_limits_out_of_range_are_named(values):
    with pytest.raises(errors.UserError, match=next(iter(values))):
        Sampling(**values)


@pytest.mark.parametrize(
    "change, message",
    [(dict(name="smell"), "smell"), (dict(count=0), "count=0"), (dict(sampling=Sampling(1.0)), "key")],
)
def test_what_cannot_be_generated_is_named(model, variables, change, message):
    with pytest.raises(errors.UserError, match=message):
        generate.generate(model, variables, prompts(), **(dict(count=1) | change))
