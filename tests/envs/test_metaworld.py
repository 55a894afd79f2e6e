"""MetaWorld as it is adapted: reproducible across processes, upright, solvable, told by words where need be."""

import importlib
import subprocess
import sys

import numpy as np
import pytest

from lapa_jax import envs
from lapa_jax.envs.metaworld import cameras, gl, language
from lapa_jax.errors import UserError

HASH = """
import hashlib
from lapa_jax import envs
from lapa_jax.envs import contract
env = envs.make("metaworld", families=("push", "window-close"))
print(hashlib.sha256(b"".join(contract.played(env, seed) for seed in {seeds})).hexdigest())
"""


@pytest.fixture
def make(needs):
    """Makes MetaWorlds and closes them after the test."""
    made = []

    def make_one(*families, **kwargs):
        kwargs |= {"families": families} if families else {}
        made.append(envs.make(needs("metaworld"), **kwargs))
        return made[-1]

    yield make_one
    for env in made:
        env.close()


def rollout(env, seed, expert):
    """Length and success of an episode."""
    env.reset(seed=seed)
    rng, ended, steps = np.random.default_rng(seed), False, 0
    while not ended:
        _, _, success, truncated, _ = env.step(expert.action(env, rng))
        ended, steps = success or truncated, steps + 1
    return steps, success


def fingers(image):
    """(column, height) of the middle of the gripper's cyan finger, pixels."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    rows, columns = np.nonzero((red < 110) & (green > 150) & (blue > 150))
    return np.array([columns.mean(), -rows.mean()])


def test_seeds_determine_episodes_in_another_process(needs):
    needs("metaworld")
    command = [sys.executable, "-c", HASH.format(seeds=[3, 4])]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    (one, told), (other, _) = [process.communicate() for process in processes]
    assert len(one) == 65 and one == other, told
    assert "Traceback" not in told  # renderers are freed before their display


@pytest.mark.parametrize("camera", [name for name in cameras.CAMERAS if name != "topview"])
def test_up_is_up_and_nothing_is_mirrored(make, camera):
    env = make("reach", camera=camera, image_size=160)
    moved = []
    for axis in range(3):
        start = fingers(env.reset(seed=1)[0]["image"])
        for _ in range(5):
            image = env.step(np.eye(4)[axis])[0]["image"]
        moved.append(fingers(image) - start)
    x, y, z = moved
    assert z[1] > 5 and abs(z[0]) < 0.2 * z[1]
    assert x[0] * y[1] - x[1] * y[0] > 50  # seen from above, y lies to the left of x


def test_the_hand_goes_where_the_action_says(make):
    env = make("reach")
    for axis, sign in ((0, 1), (1, -1), (2, 1)):
        start = env.reset(seed=0)[0]["proprio"]
        for _ in range(4):
            end = env.step(sign * np.eye(4)[axis])[0]["proprio"]
        assert sign * (end - start)[axis] > 0.05 and np.abs(np.delete((end - start)[:3], axis)).max() < 0.03
    openings = []
    for effort in (-1, 1):
        env.reset(seed=0)
        for _ in range(4):
            end = env.step(np.array([0, 0, 0, effort]))[0]["proprio"]
        openings.append(end[3])
    assert openings[0] > 0.9 and openings[1] < 0.6


def test_only_the_instruction_tells_tasks_of_one_scene_apart(make):
    reach, carry = (make(task).reset(seed=4)[0] for task in ("reach", "pick-place"))
    np.testing.assert_array_equal(reach["image"], carry["image"])
    np.testing.assert_array_equal(reach["proprio"], carry["proprio"])
    assert reach["instruction"] != carry["instruction"]


def test_the_goal_is_seen_and_in_no_vector(make):
    env = make("reach")
    seen, goals = [], []
    for seed in range(3):
        observation = env.reset(seed=seed)[0]
        seen.append(observation)
        goals.append(env.state[-3:])
        image = observation["image"].astype(int)
        green = (image[..., 1] > 100) & (image[..., 0] < 80) & (image[..., 2] < 80)
        assert 3 <= green.sum() < 60
    assert np.ptp(goals, axis=0).max() > 0.02
    np.testing.assert_allclose(seen[0]["proprio"], seen[1]["proprio"], atol=0.01)


def test_words_of_splits():
    video, labelled, heldout = map(language.split_named, ("video", "labelled", "heldout"))
    words = [wording for wordings in video.values() for wording in wordings]
    assert len(words) == len(set(words)) and len(video) >= 10
    assert all(set(wording) <= set("abcdefghijklmnopqrstuvwxyz ") for wording in words)
    for task in video:
        assert not set(labelled[task]) & set(heldout[task])
        assert set(labelled[task]) | set(heldout[task]) == set(video[task])


@pytest.mark.parametrize("split", ["labelled", "heldout"])
def test_instructions_are_of_their_split(make, split):
    env = make("reach", split=split)
    found = {env.reset(seed=seed)[0]["instruction"] for seed in range(8)}
    assert found == set(language.split_named(split)["reach"])


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("task", language.WORDINGS)
def test_experts_succeed(make, task, noise):
    env = make(task)
    outcomes = [rollout(env, seed, envs.expert("metaworld", noise)) for seed in range(10)]
    assert np.mean([success for _, success in outcomes]) >= 0.8
    assert 8 <= np.mean([steps for steps, _ in outcomes]) <= 40


@pytest.mark.parametrize("task", ["push", "faucet-close"])
def test_an_expert_succeeds_despite_the_noise_of_a_recording(make, task):
    env = make(task)
    assert sum(rollout(env, seed, envs.expert("metaworld", 0.05))[1] for seed in range(3)) >= 2


def test_unknown_names(needs):
    for wrong in ({"camera": "corner9"}, {"split": "test"}, {"families": ("juggle",)}, {"image_size": 0}):
        with pytest.raises(UserError):
            envs.make("metaworld", **wrong)
    with pytest.raises(UserError, match="reset"):
        envs.make("metaworld").step(np.zeros(4))


def test_light_import():
    code = (
        "import sys, lapa_jax.envs, lapa_jax.envs.metaworld.expert, lapa_jax.envs.metaworld.simulator;"
        "assert not {'mujoco', 'metaworld', 'gymnasium', 'jax'} & set(sys.modules), 'heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_extra_says_how_to_install(monkeypatch):
    pytest.importorskip("gymnasium", reason="the environments need gymnasium: the extras [tabletop], [metaworld]")
    monkeypatch.setitem(sys.modules, "mujoco", None)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(UserError, match=r"pip install -e \.\[metaworld\]"):
        envs.make("metaworld").reset(seed=0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo finds OpenGL by itself")
@pytest.mark.parametrize(
    "there, chosen", [(("libEGL.so.1", "libOSMesa.so.8"), "egl"), (("libOSMesa.so.8",), "osmesa")]
)
def test_what_draws_is_found(there, chosen):
    def load(name):
        if name not in there:
            raise OSError(name)

    environment = {}
    assert gl.choose(environment, load) == chosen == environment["MUJOCO_GL"]
    assert gl.choose({"MUJOCO_GL": "glfw"}, load) == "glfw"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MuJoCo finds OpenGL by itself")
def test_no_opengl_names_the_packages():
    def load(name):
        raise OSError(name)

    with pytest.raises(UserError, match="libegl1 libgl1-mesa-dri.*libosmesa6"):
        gl.choose({}, load)


def test_an_opengl_that_does_not_start_names_the_packages(needs):
    needs("metaworld")
    code = "from lapa_jax import envs, errors\nwith errors.in_one_line(): envs.make('metaworld').reset(seed=0)"
    broken = {"__EGL_VENDOR_LIBRARY_DIRS": "/nowhere", "MUJOCO_GL": "egl", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=broken, capture_output=True, text=True)
    assert done.returncode == 2 and "libosmesa6" in done.stderr, done.stderr


def test_frames_are_recorded_at_the_rate_that_the_table_has():
    from lapa_jax.data.tables import standard

    env, entry = importlib.import_module("lapa_jax.envs.metaworld.env").MetaworldEnv, standard.lookup("metaworld")
    assert entry.rate == env.metadata["render_fps"]
    assert list(entry.action_dim_names) == env.action_space_description["names"]
    assert [part.key for part in entry.proprio] == [f"observation/{n}" for n in env.proprio_description["parts"]]
