"""The model server for vla-eval: conventions by themselves, and under the harness's own client and orchestrator."""

import asyncio
import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from lapa_jax import policy, trained
from lapa_jax.actions import task as task_lib
from lapa_jax.data import layouts, prompts, statistics
from lapa_jax.data.tables import standard
from lapa_jax.errors import UserError

FOLDER = Path(__file__).resolve().parent.parent / "integrations/vla_eval"
REASON = "the harness is not installed: pip install -e '.[vla_eval]'"
METADATA = {
    "head": "l1", "horizon": 4, "action_dim": 7, "cameras": ["image", "image_wrist"], "image_size": 8,
    "proprio_dim": 8, "history": 0, "code_length": 4, "action_space": {"names": list("xyzrpyg")},
}


class FakePolicy:
    """Plans `horizon` actions: the image's first pixel / 100, its number in the chunk, ..., 1 (an open gripper)."""

    def __init__(self, **changes):
        self.metadata, self.batches, self.told = METADATA | changes, [], []
        self.gripper, self.turn = 1.0, (0.0, 0.0, 0.0)

    def batch_of(self, observation):
        if len(observation["instruction"]) > 40:
            raise UserError("instruction ... needs ... tokens")

    def infer(self, observation, seed=None):
        assert observation["image"].dtype == np.uint8 and observation["image"].ndim == 4
        count = len(observation["image"])
        assert len(observation["instruction"]) == count
        for camera in self.metadata["cameras"]:
            assert len(observation[camera]) == count
        if self.metadata["proprio_dim"]:
            assert observation["proprio"].shape == (count, self.metadata["proprio_dim"])
        self.batches.append(count)
        self.told.append(observation.get("last_latents"))
        actions = np.zeros((count, self.metadata["horizon"], self.metadata["action_dim"]), np.float32)
        actions[..., 0] = observation["image"][:, 0, 0, :1] / 100.0
        actions[..., 1] = np.arange(self.metadata["horizon"])
        actions[..., 2] = [[len(words)] for words in observation["instruction"]]
        actions[..., 3:6] = self.turn
        actions[..., -1] = self.gripper
        latents = np.repeat(observation["image"][:, 0, 0, :1].astype(np.int32), 4, axis=1)
        return {"actions": actions, "latents": latents}


@pytest.fixture
def conventions(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("conventions")
    for name in ("conventions", "server"):
        sys.modules.pop(name, None)


def sent(value=0, size=8, **changes):
    """An observation as LIBERO's benchmark sends it."""
    images = {name: np.full((size, size, 3), value, np.uint8) for name in ("agentview", "wrist")}
    return {"images": images, "task_description": "lift", "states": np.arange(8.0), **changes}


def test_grippers_are_inverse_pairs(conventions):
    openness = np.linspace(0, 1, 5)
    for to_open, from_open in conventions.GRIPPERS.values():
        np.testing.assert_allclose(to_open(from_open(openness)), openness, atol=1e-7)


@pytest.mark.parametrize(
    "theirs, open_, closed",
    [("libero", -1, 1), ("simpler", 1, 0), ("calvin", 1, -1), ("maniskill2", 0, 1), ("vlabench", 1, -1)],
)
def test_every_gripper_reaches_every_benchmark(conventions, theirs, open_, closed):
    benchmark = conventions.BENCHMARKS[theirs]
    for name, (_, from_open) in conventions.GRIPPERS.items():
        for openness, expected in ((1.0, open_), (0.0, closed)):
            action = np.r_[np.zeros(6), from_open(openness)].astype(np.float32)
            assert conventions.translated(benchmark, name, action)[-1] == expected
    beyond = conventions.translated(benchmark, "open_01", np.r_[np.zeros(6), 1.7])
    assert beyond[-1] == open_ and beyond.dtype == np.float32


def test_joints_go_as_they_are(conventions):
    actions = np.random.default_rng(0).normal(size=(2, 14)).astype(np.float32)
    np.testing.assert_array_equal(
        conventions.translated(conventions.BENCHMARKS["robotwin"], None, actions), actions
    )


def test_an_observation_becomes_ours(conventions):
    seen = conventions.observed(conventions.BENCHMARKS["libero"], METADATA, sent(3))
    assert seen["image"][0, 0].tolist() == seen["image_wrist"][0, 0].tolist() == [3, 3, 3]
    assert seen["instruction"] == "lift" and seen["proprio"].dtype == np.float32
    batch = conventions.stacked([seen, seen], 4)
    assert batch["image"].shape == (4, 8, 8, 3) and batch["instruction"] == ["lift"] * 4
    assert batch["proprio"].shape == (4, 8)


BAD = {
    "no image 'wrist'": {"images": {"agentview": np.zeros((8, 8, 3), np.uint8)}},
    r"no image 'agentview' in the observation: it has \[\]": {"images": None},
    r"'agentview' is float64\[8, 8, 3\]": {"images": dict.fromkeys(("agentview", "wrist"), np.zeros((8, 8, 3)))},
    r"'agentview' is uint8\[8, 8\]": {"images": dict.fromkeys(("agentview", "wrist"), np.zeros((8, 8), np.uint8))},
    "task_description is None": {"task_description": None},
    r"'states' in the observation is \[7\], the policy takes 8": {"states": np.zeros(7)},
    r"takes 8 finite numbers": {"states": np.full(8, np.nan)},
}


@pytest.mark.parametrize("message", BAD)
def test_what_is_missing_is_not_made_up(conventions, message):
    with pytest.raises(UserError, match=message):
        conventions.observed(conventions.BENCHMARKS["libero"], METADATA, sent(**BAD[message]))


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("simpler", {}, r"looks through \['image_wrist'\]"),
        ("robotwin", {"cameras": ["image"], "proprio_dim": 14}, "7 numbers, this benchmark takes 14"),
        ("vlabench", {"cameras": ["image"]}, "this benchmark sends none"),
    ],
)
def test_policies_that_do_not_fit(conventions, name, changes, message):
    with pytest.raises(UserError, match=message):
        conventions.check(conventions.BENCHMARKS[name], METADATA | changes)


def test_a_gripper_is_declared_not_guessed(conventions):
    libero = conventions.BENCHMARKS["libero"]
    with pytest.raises(UserError, match=r"what does the policy's gripper number mean \(None\)"):
        conventions.declared_gripper(libero, METADATA, None)
    for words in ("open_01", standard.lookup("bridge_dataset").gripper):
        declared = METADATA | {"action_space": {"gripper": words}}
        assert conventions.declared_gripper(libero, declared, None) == "open_01"
        assert conventions.declared_gripper(libero, declared, "close_01") == "close_01"
    with pytest.raises(UserError, match="what does the policy's gripper number mean"):
        conventions.declared_gripper(libero, METADATA | {"action_space": {"gripper": "as published"}}, None)
    assert conventions.declared_gripper(conventions.BENCHMARKS["robotwin"], METADATA, None) is None


def test_actions_that_are_not_finite_are_not_sent(conventions):
    with pytest.raises(UserError, match="not finite"):
        conventions.translated(conventions.BENCHMARKS["libero"], "open_01", np.full((4, 7), np.nan))


# Under the harness itself.


@pytest.fixture
def serve(conventions, monkeypatch):
    """(fake, **arguments of LapaModelServer) -> the server, its policy in the place of a checkpoint's."""
    pytest.importorskip("vla_eval", reason=REASON)
    server = importlib.import_module("server")

    def make(fake, **kwargs):
        monkeypatch.setattr(policy.Policy, "from_checkpoint", classmethod(lambda cls, folder: fake))
        made = server.LapaModelServer("runs/finetune", **({"gripper": "open_01"} | kwargs))
        fake.batches.clear()
        fake.told.clear()
        return made

    return make


async def connected(url, talk):
    """What `talk(connection)` returns, over the harness's own client."""
    from vla_eval.connection import Connection

    async with Connection(url, timeout=20, max_retries=1) as connection:
        await connection.start_episode({"task": {"name": "lift"}})
        result = await talk(connection)
        await connection.end_episode({})
        return result


def converse(server, *talks):
    """Runs conversations at once, each over its own connection to a served server."""
    from vla_eval import api

    async def everyone(url):
        return await asyncio.gather(*(connected(url, talk) for talk in talks))

    with api.serve_background(server) as handle:
        return asyncio.run(everyone(handle.url))


def test_hello_asks_for_what_the_policy_needs(serve):
    async def talk(connection):
        return connection.server_info

    (info,) = converse(serve(FakePolicy()), talk)
    assert info["observation_params"] == {
        "send_wrist_image": True, "send_state": True, "quat_no_antipodal": True,
    }
    assert info["action_spec"]["gripper"]["format"] == "binary_close_positive"
    assert set(info["observation_spec"]) == {"agentview", "wrist", "language", "state"}
    blind = serve(FakePolicy(cameras=["image"], proprio_dim=None))
    assert blind.get_observation_params() == {}


def test_a_chunk_is_carried_out_before_the_next_look(serve):
    fake = FakePolicy()

    async def talk(connection):
        return [(await connection.act(sent(10 * i)))["actions"] for i in range(6)]

    (actions,) = converse(serve(fake, chunk_size=3), talk)
    assert [round(float(a[0]), 4) for a in actions] == [0.0, 0.0, 0.0, 0.3, 0.3, 0.3]  # of the images at 0 and 3
    assert [float(a[1]) for a in actions] == [0, 1, 2, 0, 1, 2]
    assert {float(a[-1]) for a in actions} == {-1.0} and actions[0].dtype == np.float32
    assert fake.batches == [1, 1]


def test_a_new_instruction_ends_the_chunk(serve):
    async def talk(connection):
        await connection.act(sent(10))
        after = await connection.act(sent(20, task_description="put it down", episode_restart=True))
        return after["actions"]

    (action,) = converse(serve(FakePolicy()), talk)
    assert action[0] == np.float32(0.2) and action[1] == 0 and action[2] == len("put it down")


def test_frames_may_be_left_out_within_a_chunk(serve):
    """As RoboTwin's render_every does."""

    async def talk(connection):
        await connection.act(sent(10))
        within = (await connection.act({"task_description": "lift"}))["actions"]
        await connection.act({})
        with pytest.raises(RuntimeError, match="no image 'agentview'"):
            for _ in range(2):
                await connection.act({})
        return within

    (action,) = converse(serve(FakePolicy()), talk)
    assert action[1] == 1


def test_a_bad_observation_is_an_error_of_its_session(serve):
    async def bad(connection):
        for changes in (*BAD.values(), {"task_description": "lift " * 10}):
            with pytest.raises(RuntimeError, match="UserError"):
                await connection.act(sent(**changes))

    async def good(connection):
        return [(await connection.act(sent(50)))["actions"][0] for _ in range(12)]

    fake = FakePolicy()
    server = serve(fake, max_batch_size=4)
    converse(server, good)
    *_, actions = converse(server, bad, good)
    assert set(actions) == {np.float32(0.5)}


def test_a_policy_gone_wrong_sends_nothing(serve):
    fake = FakePolicy()
    server = serve(fake)
    fake.gripper = np.nan

    async def talk(connection):
        with pytest.raises(RuntimeError, match="not finite; nothing is sent"):
            await connection.act(sent())

    converse(server, talk)


def test_sessions_share_batches_and_keep_their_own_actions(serve):
    fake = FakePolicy()

    def talk(number):
        async def act(connection):
            return [float((await connection.act(sent(number)))["actions"][0]) for _ in range(8)]

        return act

    answers = converse(serve(fake, max_batch_size=4, max_wait_time=0.2), *(talk(n) for n in range(6)))
    np.testing.assert_allclose(answers, [[n / 100.0] * 8 for n in range(6)], atol=1e-6)
    assert set(fake.batches) <= {1, 2, 4} and len(fake.batches) < 12  # 12 looks without batches


def test_rotations_are_turned_where_they_are_declared(serve):
    """Half a turn about x, then a quarter about z, in fixed axes: SIMPLER's controller takes rotation vectors."""
    fake = FakePolicy(cameras=["image"], proprio_dim=None)
    fake.turn = (np.pi, 0.0, np.pi / 2)

    async def talk(connection):
        look = sent(images={"primary": np.zeros((8, 8, 3), np.uint8)})
        return (await connection.act(look))["actions"][3:6]

    (as_it_is,) = converse(serve(fake, benchmark="simpler"), talk)
    np.testing.assert_allclose(as_it_is, fake.turn, atol=1e-6)
    (vector,) = converse(serve(fake, benchmark="simpler", rotation="euler_xyz"), talk)
    np.testing.assert_allclose(np.abs(vector), np.pi * np.sqrt([0.5, 0.5, 0.0]), atol=1e-5)
    (same,) = converse(serve(fake, benchmark="simpler", rotation="axis_angle"), talk)
    np.testing.assert_allclose(same, fake.turn, atol=1e-6)


def test_rotations_there_and_back(serve):
    turned = importlib.import_module("server").turned
    angles = np.random.default_rng(0).uniform(-1.2, 1.2, (5, 4, 3))
    vectors = turned(angles, "euler_xyz", "axis_angle")
    np.testing.assert_allclose(turned(vectors, "axis_angle", "euler_xyz"), angles, atol=1e-6)
    assert np.abs(vectors - angles).max() > 0.05  # they are not the same numbers


@pytest.mark.parametrize(
    "name, given, message",
    [("libero", "quaternion", "unknown rotation 'quaternion'"), ("robotwin", "euler_xyz", "is not known")],
)
def test_rotations_that_cannot_be_turned(conventions, name, given, message):
    with pytest.raises(UserError, match=message):
        conventions.declared_rotation(conventions.BENCHMARKS[name], given)


def test_sessions_may_have_images_of_other_sizes(serve):
    def talk(number):
        async def act(connection):
            look = sent(number, size=8 + 8 * (number % 2))
            return [float((await connection.act(look))["actions"][0]) for _ in range(8)]

        return act

    answers = converse(serve(FakePolicy(), max_batch_size=4, max_wait_time=0.2), *(talk(n) for n in range(5)))
    np.testing.assert_allclose(answers, [[n / 100.0] * 8 for n in range(5)], atol=1e-6)


def test_every_batch_is_compiled_before_the_first_client(serve):
    fake = FakePolicy()
    fake.batches = warm = type("Log", (list,), {"clear": lambda self: None})()
    serve(fake, max_batch_size=6)
    assert warm == [1, 2, 4, 6]


def test_a_policy_is_told_its_last_latents(serve):
    """After as many steps as it was trained with, from the first look of an episode or of a new instruction on."""
    fake = FakePolicy(history=2)

    async def talk(connection):
        for value in (10, 11, 12, 13):
            await connection.act(sent(value))
        await connection.act(sent(14, episode_restart=True))
        await connection.start_episode({"task": {"name": "again"}})
        await connection.act(sent(15))

    converse(serve(fake), talk)
    assert [told.tolist() for told in fake.told] == [[[-1] * 4], [[10] * 4], [[-1] * 4], [[-1] * 4]]


@pytest.mark.parametrize(
    "changes, given, message",
    [
        ({}, 5, "the policy plans 4 actions; say 1 to 4"),
        ({}, 0, "the policy plans 4 actions"),
        ({"history": 2}, 3, "latents of its last look, 2 steps before"),
    ],
)
def test_chunks_that_do_not_fit(conventions, changes, given, message):
    with pytest.raises(UserError, match=message):
        conventions.chunk(METADATA | changes, given)


def test_empty_batches_are_refused(serve):
    with pytest.raises(UserError, match="max_batch_size=0"):
        serve(FakePolicy(), max_batch_size=0)


@pytest.fixture(scope="module")
def real():
    """A policy of ours with random weights: two cameras, proprioception, told its last latents."""
    pytest.importorskip("vla_eval", reason=REASON)
    rng = np.random.default_rng(0)
    tokenizer = prompts.train_tokenizer(("lift the bowl", "push the plate"), length=7)
    model = dict(
        size="debug", vocabs=dict(text=0, latent=8), heads=("latent",), image="stem",
        remat="none", theta=1e4, dtype="float32", image_stem=dict(channels=4, num_heads=2, keypoints=4),
    )
    layout = layouts.Clean(tokenizer, num_image_tokens=8, code_length=2, by_word=True)
    task = task_lib.ActionTask.of(
        trained.Planner.of(model, layout, None, image_size=16),
        dict(kind="latents", horizon=3, width=16),
        statistics.compute([rng.normal(size=(50, 7)).astype(np.float32)], "quantile"),
        statistics.compute([rng.normal(size=(50, 8)).astype(np.float32)], "quantile"),
        ("image", "image_wrist"),
        history=2,
    )
    return policy.Policy(task, jax.jit(task.init_fn())(jax.random.key(0)))


def test_a_real_policy_answers_as_it_does_here(serve, conventions, real, monkeypatch):
    """Through the harness's server and client, in batches, against `infer` alone, one observation at a time."""
    rng = np.random.default_rng(1)
    looks = [
        sent(images={name: rng.integers(0, 256, (24, 24, 3), np.uint8) for name in ("agentview", "wrist")})
        for _ in range(3)
    ]

    def talk(look):
        async def act(connection):
            return [(await connection.act(look))["actions"] for _ in range(4)]

        return act

    for log in ("batches", "told"):
        monkeypatch.setattr(real, log, [], raising=False)
    answers = converse(serve(real, max_batch_size=2), *map(talk, looks))
    for look, answer in zip(looks, answers, strict=True):
        seen = conventions.observed(conventions.BENCHMARKS["libero"], real.metadata, look)
        first = real.infer(seen)
        second = real.infer({**seen, "last_latents": first["latents"]})
        expected = np.concatenate([first["actions"][:2], second["actions"][:2]])
        np.testing.assert_allclose(np.stack(answer)[:, :6], expected[:, :6], rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(np.stack(answer)[:, 6], 1 - 2 * np.clip(expected[:, 6], 0, 1), atol=1e-4)


REAL = {
    "libero": "libero.benchmark:LIBEROBenchmark", "simpler": "simpler.benchmark:SimplerEnvBenchmark",
    "calvin": "calvin.benchmark:CALVINBenchmark", "robotwin": "robotwin.benchmark:RoboTwinBenchmark",
    "maniskill2": "maniskill2.benchmark:ManiSkill2Benchmark", "vlabench": "vlabench.benchmark:VLABenchBenchmark",
}


@pytest.mark.parametrize("name", REAL)
def test_specs_agree_with_the_benchmarks(serve, conventions, monkeypatch, name):
    """The benchmark itself, made with what we ask of it, finds nothing to warn of in what we declare."""
    from vla_eval import registry, specs

    monkeypatch.setenv("EGL_PLATFORM", "device")  # LIBERO's file sets both: take them back
    monkeypatch.setenv("PYOPENGL_PLATFORM", "egl")
    row = conventions.BENCHMARKS[name]
    cameras = ["image", *(["image_wrist"] if "image_wrist" in row.cameras else [])]
    proprio = 8 if row.state else None
    server = serve(FakePolicy(action_dim=row.action_dim, cameras=cameras, proprio_dim=proprio), benchmark=name)
    task = {"task_name": "grab_roller"} if name == "robotwin" else {}
    made = registry.resolve_import_string(f"vla_eval.benchmarks.{REAL[name]}")(
        **task, **server.get_observation_params()
    )
    warnings = specs.check_specs(
        server.get_action_spec(), made.get_action_spec(), server.get_observation_spec(), made.get_observation_spec()
    )
    assert not warnings


def test_the_orchestrator_evaluates_us(serve, tmp_path):
    from vla_eval import api

    config = {
        "output_dir": str(tmp_path),
        "benchmarks": [{
            "benchmark": "vla_eval_reaching:Reaching", "episodes_per_task": 3,
        }],
    }
    fake = FakePolicy()
    fake.gripper = 0.0  # closed, in the policy's words
    (result,) = api.evaluate(serve(fake), config, docker=False, no_save=True)
    assert [task["mean_success"] for task in result["tasks"]] == [1.0]
    fake.gripper = 1.0
    (result,) = api.evaluate(serve(fake), config, docker=False, no_save=True)
    assert [task["mean_success"] for task in result["tasks"]] == [0.0]
