"""The policy: greedy planning, inverse transforms, single and batched calls; one folder is enough."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lapa_jax import checkpoints, errors, policy, sharding, trained, training, vocab
from lapa_jax.actions import inputs
from lapa_jax.actions import task as task_lib
from lapa_jax.data import layouts, prompts, statistics, transforms
from lapa_jax.models import heads, token_stream

WORDS = ("push the red cube left", "point at the blue star")
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def task():
    tokenizer = prompts.train_tokenizer(WORDS, length=7)
    actions = [np.random.default_rng(0).uniform(-0.03, 0.03, (50, 2)).astype(np.float32)]
    model = dict(
        size="debug", vocabs=dict(text=0, latent=8), heads=("latent",), image="stem",
        remat="none", theta=1e4, dtype="float32", image_stem=dict(channels=4, num_heads=2, keypoints=4),
    )
    layout = layouts.Clean(tokenizer, num_image_tokens=8, code_length=2, by_word=True)
    planner = trained.Planner.of(model, layout, None, image_size=16)
    head = dict(kind="latents", horizon=3, width=16)
    return task_lib.ActionTask.of(planner, head, statistics.compute(actions, "quantile"))


@pytest.fixture(scope="module")
def state(task):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        return training.init_sharded(training.make_init(task.init_fn()), mesh, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, state, task):
    """A finetune run with one checkpoint, saved from 8 devices."""
    workdir = tmp_path_factory.mktemp("finetune")
    with checkpoints.Checkpoints(workdir, {"seed": 0}, task.to_json()) as saved:
        saved.save(5, state, {"position": 0})
        saved.wait()
    return workdir


@pytest.fixture(scope="module")
def served(folder):
    return policy.Policy.from_checkpoint(folder)


def prompts_of(task, images):
    return task.planner.prompts(WORDS, task.layout) | {"image": images}


def test_a_checkpoint_is_all_a_policy_needs(served, state, task):
    """Its actions are the network's own, on resized images, in metres."""
    batch = prompts_of(task, np.stack([transforms.resize(image, 16) for image in IMAGES]))
    params = jax.tree.map(np.asarray, state.params)
    normalised = np.asarray(task.normalised({"params": params}, batch))
    expected = task.statistics.unnormalise(normalised)
    actions = served.infer({"image": IMAGES, "instruction": WORDS})["actions"]
    assert actions.shape == (2, 3, 2) and actions.dtype == np.float32
    np.testing.assert_allclose(actions, expected, atol=1e-5)
    assert np.abs(actions - normalised).max() > 1e-3


def test_single_and_batched_calls_agree_and_repeat(served):
    batch = served.infer({"image": IMAGES, "instruction": list(WORDS)})["actions"]
    again = served.infer({"image": IMAGES, "instruction": list(WORDS)})["actions"]
    np.testing.assert_array_equal(batch, again)
    for i in range(2):
        one = served.infer({"image": IMAGES[i], "instruction": WORDS[i]})["actions"]
        assert one.shape == (3, 2)
        np.testing.assert_allclose(one, batch[i], atol=1e-5)


def test_planning_is_greedy(served, state, task):
    """The head sees the tokens that the VLM, fed its own best tokens, finds most likely, and they are told."""
    batch = prompts_of(task, IMAGES[:, :16, :16])
    params, model = jax.tree.map(np.asarray, state.params), task.planner.model
    planner = {"params": params["planner"]}
    prompt, seen = inputs.look(task.planner, {"params": params}, batch, batch["image"])
    tokens, codes = prompt, []
    for _ in range(2):
        hidden = model.apply(planner, tokens, seen, method="features")
        codes.append(jnp.argmax(model.apply(planner, hidden[:, -1:], method="logits"), axis=-1))
        tokens = token_stream.concatenate(tokens, token_stream.Tokens.of(codes[-1], vocab.LATENT))
    logits = model.apply(planner, hidden[:, -2:], method="logits")
    head = heads.ActionHead(horizon=3, action_dim=2, width=16)
    expected = head.apply({"params": params["action_head"]}, hidden[:, -2:], logits, jnp.zeros((2, 0)))
    np.testing.assert_allclose(task.normalised({"params": params}, batch), expected, atol=1e-4)
    found = served.infer({"image": IMAGES[:, :16, :16], "instruction": WORDS})
    np.testing.assert_array_equal(found["latents"], jnp.concatenate(codes, axis=1))


def test_a_pretrained_planner_replaces_all_but_the_head(state, tmp_path):
    mesh = sharding.make_mesh()
    other = jax.tree.map(lambda x: x + 1.0, state.params["planner"])
    pretrained = training.TrainState(jnp.int32(9), other, {}, None)
    with checkpoints.Checkpoints(tmp_path, {"seed": 0}, {"tokenizer": "x"}) as saved:
        saved.save(9, jax.device_put(pretrained, sharding.tree_shardings(mesh, pretrained)), {"position": 0})
        saved.wait()
    with jax.set_mesh(mesh):
        found = policy.with_planner(state, str(tmp_path))
    jax.tree.map(np.testing.assert_array_equal, found.params["planner"], other)
    jax.tree.map(np.testing.assert_array_equal, found.params["action_head"], state.params["action_head"])
    assert int(found.step) == 0


@pytest.mark.parametrize(
    "image, instruction, message",
    [
        (IMAGES[0].astype(np.float32), WORDS[0], "float32"),
        (IMAGES[0, :, :, :1], WORDS[0], r"uint8\[24, 24, 1\]"),
        (IMAGES[0, 0], WORDS[0], "H, W, 3"),
        (IMAGES, WORDS[0], "as many instructions"),
        (IMAGES, WORDS[:1], "2 images need"),
        (IMAGES[0], "push " * 10, "shorten the instruction"),
        (IMAGES[:0], [], "empty batch"),
        (IMAGES[0], 3, "is text, not int"),
        (IMAGES, ["push", 3], "is text, not int"),
        (IMAGES[0, :0], WORDS[0], "no pixel"),
    ],
)
def test_wrong_observations_are_named(served, image, instruction, message):
    with pytest.raises(errors.UserError, match=message):
        served.infer({"image": image, "instruction": instruction})


def test_a_folder_without_a_policy_is_refused(tmp_path, state):
    with pytest.raises(errors.UserError, match="no checkpoint"):
        policy.Policy.from_checkpoint(tmp_path)
    with checkpoints.Checkpoints(tmp_path, {"seed": 0}, {"tokenizer": "x"}) as saved:
        saved.save(1, state, {"position": 0})
        saved.wait()
    with pytest.raises(errors.UserError, match="not a policy"):
        policy.Policy.from_checkpoint(tmp_path)
