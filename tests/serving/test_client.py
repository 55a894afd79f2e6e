"""The client package: what it needs, and its connection to servers that start, end, refuse and fall silent."""

import ast
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import waiting
from fake_policy import WARM, FakePolicy, expected, image

lapa_client = pytest.importorskip("lapa_client", reason="the client is not installed (extra [serve])")

FOLDER = Path(__file__).resolve().parent.parent.parent / "client"


def test_it_imports_numpy_msgpack_and_websockets_only():
    allowed = {"numpy", "msgpack", "websockets", "lapa_client", *sys.stdlib_module_names}
    for path in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(), feature_version=(3, 8))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert {name.partition(".")[0] for name in names} <= allowed, path


def test_it_runs_without_the_library():
    script = "import sys, lapa_client; assert 'lapa_jax' not in sys.modules; print(lapa_client.__version__)"
    done = subprocess.run([sys.executable, "-c", script], cwd=FOLDER, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == lapa_client.__version__


def test_actions_of_an_observation(serve):
    server = serve(FakePolicy(cameras=("image", "wrist"), proprio_dim=2))
    asked = {"image": image(3), "wrist": image(4), "instruction": "push", "proprio": np.float32([1, 2])}
    with lapa_client.Client(server.uri) as client:
        assert client.metadata["cameras"] == ["image", "wrist"] and client.metadata["horizon"] == 4
        assert client.metadata["server"]["protocol"] == 1
        answer = client.infer(asked)
        np.testing.assert_array_equal(answer["actions"], expected(asked))
        assert answer["actions"].dtype == np.float32 and answer["latents"].dtype == np.int32
        answer["actions"][:] = 0  # whoever asked may change it
        np.testing.assert_array_equal(client.infer(asked, seed=9)["actions"], expected(asked, seed=9))
        assert client.infer(asked)["server_timing"].keys() == {"infer_ms", "queue_ms", "prev_total_ms"}


def test_an_error_has_code_and_sentence_and_the_next_request_works(serve):
    server = serve()
    with lapa_client.Client(server.uri) as client:
        with pytest.raises(lapa_client.ServerError, match="float64") as caught:
            client.infer({"image": image().astype(float), "instruction": "push"})
        assert caught.value.code == "bad_observation" and "uint8[H, W, 3]" in caught.value.sentence
        good = {"image": image(9), "instruction": "push"}
        np.testing.assert_array_equal(client.infer(good)["actions"], expected(good))


def test_a_message_that_is_too_large_is_named(serve):
    with lapa_client.Client(serve(max_message_mb=0.1).uri) as client:
        with pytest.raises(lapa_client.ServerError) as caught:
            client.infer({"image": image(0, 1000), "instruction": "push"})
        assert caught.value.code in ("too_large", "closed")  # closed: the reason came while it was still sending
        client.infer({"image": image(), "instruction": "push"})


def test_no_server_is_said_after_the_wait(unused_port):
    begun = time.monotonic()
    with pytest.raises(lapa_client.Unreachable, match="no policy server at ws://127.0.0.1") as caught:
        lapa_client.Client(f"ws://127.0.0.1:{unused_port}", wait_s=0.5)
    assert caught.value.code == "unreachable" and time.monotonic() - begun < 5
    assert isinstance(caught.value, ConnectionError)


def test_it_waits_for_a_server_that_starts_and_warms_up(unused_port):
    servers = pytest.importorskip("servers", reason="the server is not installed (extra [serve])")
    found = []
    wait = threading.Thread(target=lambda: found.append(lapa_client.Client(f"ws://127.0.0.1:{unused_port}")))
    wait.start()
    time.sleep(0.3)
    server = servers.Running(FakePolicy(seconds=0.1), port=unused_port)
    wait.join(waiting.PATIENCE)
    found[0].infer({"image": image(), "instruction": "push"})
    found[0].close()
    server.end()


def test_a_cut_connection_is_made_again(serve):
    server = serve(idle_s=0.2)
    with lapa_client.Client(server.uri) as client:
        asked = {"image": image(1), "instruction": "push"}
        client.infer(asked)
        time.sleep(0.6)  # the server has closed it
        np.testing.assert_array_equal(client.infer(asked)["actions"], expected(asked))


def test_an_answer_that_does_not_come_is_given_up(serve):
    with lapa_client.Client(serve(FakePolicy(seconds=0.5, quick=WARM), max_batch=1).uri, timeout_s=0.1) as client:
        with pytest.raises(lapa_client.Unreachable, match="no answer in 0.1 s") as caught:
            client.infer({"image": image(), "instruction": "push"})
        assert caught.value.code == "no_answer"


def test_tokens(serve):
    server = serve(token="secret words")
    for token in (None, "other"):
        with pytest.raises(lapa_client.ServerError, match="wants a token") as caught:
            lapa_client.Client(server.uri, token=token, wait_s=1)
        assert caught.value.code == "unauthorized"
    with lapa_client.Client(server.uri, token="secret words") as client:
        client.infer({"image": image(), "instruction": "push"})


def test_tracebacks_of_other_servers_are_passed_on():
    error = lapa_client.ServerError.of_text("Traceback (most recent call last):\n  KeyError: 'state'")
    assert error.code == "policy_failed" and "KeyError" in error.sentence
    assert lapa_client.ServerError.of_text(json.dumps({"code": "busy", "error": "wait"})).code == "busy"
