"""experiments/serve.py with a real policy, in a process of its own, and its mistakes in one line."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import types
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import waiting

from lapa_jax import errors, policy

ROOT = Path(__file__).resolve().parent.parent.parent
WHY = "the server is not installed (extra [serve])"
lapa_client = pytest.importorskip("lapa_client", reason=WHY)
pytest.importorskip("lapa_jax.serving.server", reason=WHY)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 20, 20, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A policy with random weights, 16 px."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from serving_speed import fresh
    finally:
        sys.path.pop(0)
    made = tmp_path_factory.mktemp("policy")
    fresh.write(made, image_size=16, horizon=3, action_dim=2)
    return made


def start(*flags):
    command = [sys.executable, "experiments/serve.py", "--config=experiments/configs/serve.py:tiny", *flags]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "client")])
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths}, **pipes)


def test_a_policy_is_served_and_the_server_ends_with_0(folder, tmp_path):
    """Its actions are those of the policy itself; one that asks with a seed is answered alike each time."""
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    here = policy.Policy.from_checkpoint(folder)
    with start(f"--config.policy={folder}", "--config.port=0", f"--config.token_file={token}") as process:
        with contextlib.ExitStack() as stack:
            stack.callback(process.kill)
            port = int(re.search(r"ws://127\.0\.0\.1:(\d+) ", process.stdout.readline()).group(1))
            client = stack.enter_context(lapa_client.Client(f"ws://127.0.0.1:{port}", token="s3cret", wait_s=120))
            assert {name: client.metadata[name] for name in here.metadata} == here.metadata
            for image in IMAGES:
                asked = {"image": image, "instruction": "push the red cube"}
                found, wanted = client.infer(asked), here.infer(asked)
                np.testing.assert_allclose(found["actions"], wanted["actions"], atol=1e-6)
                np.testing.assert_array_equal(found["latents"], wanted["latents"])
            first, again = (client.infer(asked, seed=3)["actions"] for _ in range(2))
            np.testing.assert_array_equal(first, again)
            with pytest.raises(lapa_client.ServerError, match="shorten the instruction") as caught:
                client.infer({"image": IMAGES[0], "instruction": "push " * 50})
            assert caught.value.code == "bad_observation"
            request = urllib.request.Request(f"http://127.0.0.1:{port}/metadata")
            request.add_header("Authorization", "Bearer s3cret")
            assert json.load(urllib.request.urlopen(request))["checkpoint"] == here.metadata["checkpoint"]
            process.send_signal(signal.SIGTERM)
            assert process.wait(waiting.PATIENCE) == 0
            assert process.stdout.read().strip().endswith("[serve] ended")


@pytest.fixture
def run_serve(monkeypatch, load_config):
    """(**{dotted key: value}): its `main` in this process; meant for what ends before a server begins."""
    import launch

    monkeypatch.setattr(launch, "define_config", lambda _: types.SimpleNamespace())
    import serve

    def run(**changes):
        serve.CONFIG.value = load_config("serve", **changes)
        serve.main([])

    return run


@pytest.mark.parametrize(
    "changes, named",
    [
        ({}, "which policy.*--config.policy=FOLDER"),
        ({"policy": "nowhere"}, "no checkpoint under .*nowhere"),
        ({"policy": "x", "token_file": "nowhere"}, "token_file=nowhere cannot be read"),
        ({"policy": "x", "names": "image"}, "names=image: give NAME=OURS"),
        ({"policy": "x", "limits.max_batch": 0}, "max_batch=0"),
        ({"policy": "x", "host": "203.0.113.7"}, "cannot listen at 203.0.113.7:8000"),
    ],
)
def test_mistakes_are_named(changes, named, run_serve):
    with pytest.raises(errors.UserError, match=named):
        run_serve(**{"port": 0} | changes if "host" not in changes else changes)
