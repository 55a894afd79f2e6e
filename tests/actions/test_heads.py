"""Every head: what it says has the form it must have, is learned, and hangs on what it is told."""

import dataclasses
import functools
import json

import jax
import numpy as np
import optax
import pytest

from lapa_jax import errors, policy, trained
from lapa_jax.actions import task as task_lib
from lapa_jax.data import action_bins, layouts, prompts, statistics

WORDS = ("push it left", "push it right")
ROWS, HORIZON, DIM, SIZE = 4, 3, 2, 16
RNG = np.random.default_rng(0)
ACTIONS = RNG.uniform(-0.03, 0.03, (200, DIM)).astype(np.float32)
STATS = statistics.compute([ACTIONS])
PROPRIO = statistics.compute([RNG.normal(0.3, 0.1, (50, 3)).astype(np.float32)])
IMAGES = RNG.integers(0, 256, (ROWS, SIZE, SIZE, 3), np.uint8)
KINDS = tuple(task_lib.KINDS)


@functools.cache
def planner():
    model = dict(
        size="debug", vocabs=dict(text=0, latent=8), heads=("latent",), image="stem", remat="none", theta=1e4,
        dtype="float32", image_stem=dict(channels=4, num_heads=2, keypoints=4),
    )
    tokenizer = prompts.train_tokenizer(WORDS, length=5)
    layout = layouts.Clean(tokenizer, num_image_tokens=6, code_length=2, by_word=True)
    return trained.Planner.of(model, layout, None, image_size=SIZE)


def task_of(kind, **more):
    head = dict(kind=kind, horizon=HORIZON, width=32, depth=1, flow_steps=8)
    bins = action_bins.fit(ACTIONS, 6, gripper=False) if kind == "bins" else None
    return task_lib.ActionTask.of(planner(), head, STATS, bins=bins, **more)


@functools.cache
def planner_params(with_actions):
    one = task_of("bins").planner if with_actions else planner()
    return jax.jit(one.init_fn())(jax.random.key(0))["params"]


def variables_of(task):
    """As the task's own init makes them, but the VLM is made once for all tests."""
    head = task.head.start(jax.random.key(1))
    own = {"action_head": head} if head else {}
    return {"params": {"planner": planner_params(task.head.tokens), **own}}


def batch_of(task, rows=ROWS):
    chunk = ACTIONS[: rows * HORIZON].reshape(rows, HORIZON, DIM)
    words = [WORDS[i % 2] for i in range(rows)]
    batch = task.planner.prompts(words, task.layout) | {"image": IMAGES[:rows]}
    batch |= {"actions": STATS.normalise(chunk), "action_mask": np.ones((rows, HORIZON), bool)}
    return batch | ({"action_ids": task.bins.encode(chunk)} if task.bins else {})


@pytest.fixture(scope="module", params=KINDS)
def made(request):
    task = task_of(request.param)
    return task, variables_of(task), jax.jit(task.predict), jax.jit(task.loss)


def test_a_chunk_for_each_row_the_same_always_and_alone(made):
    task, variables, predict, _ = made
    batch = batch_of(task)
    asked = {name: rows for name, rows in batch.items() if not name.startswith("action")}
    found = predict(variables, asked)
    assert found["actions"].shape == (ROWS, HORIZON, DIM) and np.isfinite(found["actions"]).all()
    assert ("latents" in found) == task.head.plans
    jax.tree.map(np.testing.assert_array_equal, found, predict(variables, asked))
    alone = predict(variables, {name: rows[:1] for name, rows in asked.items()})
    np.testing.assert_allclose(alone["actions"], found["actions"][:1], atol=1e-6)


def test_it_learns_a_few_chunks_by_heart(made):
    """After that, what is decoded is what was to be said: loss and decoding speak of the same thing."""
    task, variables, predict, _ = made
    batch, rest = batch_of(task), {name: part for name, part in variables.items() if name != "params"}
    tx = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        (loss, _), grads = jax.value_and_grad(task.loss, has_aux=True)(params, rest, batch, key)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params, state = variables["params"], tx.init(variables["params"])
    for nth in range(200):
        params, state, _ = step(params, state, jax.random.key(nth))
    batch = batch_of(task)
    said = STATS.normalise(np.asarray(predict({**rest, "params": params}, batch)["actions"]))
    wide = {"bins": 0.3, "flow": 0.25}.get(task.options["kind"], 0.15)  # a bin is a sixth of the range wide
    assert np.abs(said - batch["actions"]).mean() < wide < np.abs(batch["actions"]).mean() * 0.7


def test_what_is_past_the_end_does_not_count(made):
    task, variables, _, loss = made
    batch = batch_of(task)
    batch["action_mask"][:, 1:] = False
    other = dict(batch, actions=batch["actions"].copy())
    other["actions"][:, 1:] = 0.5
    if task.bins:
        other["action_ids"] = batch["action_ids"].copy()
        other["action_ids"][:, 1:] = 0
    if task.options["kind"] == "flow":  # later actions stand among the noisy ones that are looked at: all are alike
        other["action_mask"] = batch["action_mask"] = np.zeros_like(batch["action_mask"])
    params, key = variables["params"], jax.random.key(0)
    np.testing.assert_allclose(
        loss(params, {}, batch, key)[0], loss(params, {}, other, key)[0], rtol=1e-6
    )


def test_a_policy_is_made_again_from_its_assets(made):
    task, variables, _, _ = made
    again = task_lib.ActionTask.from_json(json.loads(json.dumps(task.to_json())))
    first, second = (policy.Policy(one, variables) for one in (task, again))
    observation = {"image": IMAGES[0], "instruction": WORDS[0]}
    jax.tree.map(np.testing.assert_array_equal, first.infer(observation), second.infer(observation))
    assert first.metadata == second.metadata and json.dumps(first.metadata)


@pytest.mark.parametrize("kind", ["bins", "flow"])
def test_a_seed_draws(kind):
    task = task_of(kind)
    served = policy.Policy(task, variables_of(task))
    observation = {"image": IMAGES, "instruction": [WORDS[0]] * ROWS}
    drawn = [served.infer(observation, seed=seed)["actions"] for seed in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.abs(drawn[0] - drawn[2]).max() > 1e-4


def test_ids_are_bins_of_their_dimension():
    """Dimensions have as many bins as they have different values; no id beyond is ever said."""
    coarse = ACTIONS.copy()
    coarse[:, 1] = np.sign(coarse[:, 1])
    bins = action_bins.fit(coarse, 6, gripper=False)
    assert bins.counts[1] < bins.counts[0]
    head = dict(kind="bins", horizon=HORIZON, width=8)
    task = task_lib.ActionTask.of(planner(), head, statistics.compute([coarse]), bins=bins)
    served = policy.Policy(task, variables_of(task))
    for seed in range(3):
        found = served.infer({"image": IMAGES, "instruction": list(WORDS) * 2}, seed=seed)["actions"]
        middles = bins.decode(np.arange(bins.counts[1])[:, None].repeat(2, 1))[:, 1].astype(np.float32)
        assert np.isin(found[..., 1], middles).all()


@pytest.mark.parametrize("kind", ["latents", "l1"])
def test_proprioception_is_read_in_the_units_of_the_data(kind):
    task = task_of(kind, proprio=PROPRIO)
    variables = variables_of(task)
    served = policy.Policy(task, variables)
    asked = {"image": IMAGES[0], "instruction": WORDS[0]}
    near, far = (served.infer(asked | {"proprio": PROPRIO.mean + d}, seed=0)["actions"] for d in (0, 0.2))
    assert np.abs(near - far).max() > 1e-6
    batch = served.batch_of(asked | {"proprio": PROPRIO.mean})[1]
    np.testing.assert_allclose(PROPRIO.unnormalise(batch["proprio"][0]), PROPRIO.mean, rtol=1e-5)
    faults = (({}, "no proprio"), ({"proprio": [1, 2]}, r"float\[3\]"), ({"proprio": [1, np.nan, 2]}, "not finite"))
    for wrong, message in faults:
        with pytest.raises(errors.UserError, match=message):
            served.infer(asked | wrong)


def test_every_camera_is_seen():
    task = task_of("latents", cameras=("image", "image_wrist"))
    served = policy.Policy(task, variables_of(task))
    asked = {"image": IMAGES[0], "image_wrist": IMAGES[1], "instruction": WORDS[0]}
    found = served.infer(asked)["actions"]
    for camera in task.cameras:
        assert np.abs(served.infer(asked | {camera: IMAGES[2]})["actions"] - found).max() > 1e-6
    swapped = asked | {"image": IMAGES[1], "image_wrist": IMAGES[0]}
    assert np.abs(served.infer(swapped)["actions"] - found).max() > 1e-6
    with pytest.raises(errors.UserError, match="no image_wrist"):
        served.infer({"image": IMAGES[0], "instruction": WORDS[0]})
    with pytest.raises(errors.UserError, match="image_wrist is uint8"):
        served.infer(asked | {"image_wrist": IMAGES})


def test_last_latents_are_told_and_are_those_that_would_have_been_planned():
    task = task_of("latents", history=2)
    variables = variables_of(task)
    served = policy.Policy(task, variables)
    asked = {"image": IMAGES[0], "instruction": WORDS[0]}
    first = served.infer(asked)
    told = served.infer({**asked, "image": IMAGES[1], "last_latents": first["latents"]})
    assert np.abs(told["actions"] - served.infer({**asked, "image": IMAGES[1]})["actions"]).max() > 1e-6
    batch = served.batch_of({**asked, "image": IMAGES[1]})[1]
    del batch["last_latents"]
    for known, expected in ((True, told), (False, served.infer({**asked, "image": IMAGES[1]}))):
        trained_on = {**batch, "last_image": IMAGES[:1], "last_known": np.array([known])}
        found = jax.jit(task.predict)(variables, trained_on)["actions"][0]
        np.testing.assert_allclose(found, expected["actions"], atol=1e-6)
    for wrong in ([1, 99], [1], [0.5, 1.0]):
        with pytest.raises(errors.UserError, match="last_latents is"):
            served.infer({**asked, "last_latents": wrong})


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: task_of("mystery"), "no head 'mystery'"),
        (lambda: task_of("l1", history=1), "head.kind=l1 plans no latents"),
        (lambda: task_lib.ActionTask.of(planner(), dict(kind="bins", horizon=1, width=8), STATS), "needs bins"),
        (lambda: dataclasses.replace(task_of("l1"), options=dict(kind="l1", horizon=0)), "holds no action"),
    ],
)
def test_what_cannot_be_is_named(change, message):
    with pytest.raises(errors.UserError, match=message):
        change()


def test_an_encoder_layout_has_a_place_for_each_camera():
    one = planner().layout
    two = dataclasses.replace(one, images=2)
    made = two.template(WORDS[0])
    ids = made.tokens[made.kinds == 4]
    words = len(WORDS[0].split()) + 1
    place = [*range(words), 5]
    assert ids.tolist() == [*place, *(6 + one for one in place)]
    assert two.prompt_length == one.prompt_length + 6 == len(two.prompt(WORDS[0])["tokens"])


@pytest.mark.parametrize(
    "more, message",
    [
        (dict(history=HORIZON + 1), "history=4: a policy looks again after 1 to head.horizon=3"),
        (dict(action_space={"names": ["dx", "dy", "gripper"]}), "3 names, dx,dy,gripper, for actions of 2"),
    ],
)
def test_what_cannot_be_carried_out_is_named(more, message):
    with pytest.raises(errors.UserError, match=message):
        task_of("latents", **more)
