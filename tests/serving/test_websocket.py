"""openpi's protocol, by hand, by its own package where it is installed, and from another process."""

import json
import subprocess
import sys
from pathlib import Path

import msgpack
import numpy as np
import pytest
import waiting
from fake_policy import FakePolicy, expected, image

HERE = Path(__file__).resolve().parent
WHY = "the server is not installed (extra [serve])"
messages = pytest.importorskip("lapa_client.messages", reason=WHY)
LIBERO = {
    "observation/image": image(7), "observation/wrist_image": image(1),
    "observation/state": np.zeros(8), "prompt": "pick up the bowl",
}  # fmt: skip


def test_metadata_come_first_and_say_what_is_needed_to_drive_a_robot(serve):
    with serve().connect() as connection:
        found = messages.unpack(connection.recv())
    for name in ("action_space", "horizon", "action_dim", "cameras", "normalisation", "checkpoint"):
        assert name in found
    assert found["server"]["protocol"] == 1 and found["server"]["max_message_bytes"] == 16 * 2**20


def test_observations_under_openpis_names_are_answered_in_its_form(serve):
    with serve().connect() as connection:
        connection.recv()
        for again in (False, True):
            connection.send(messages.pack(LIBERO))
            found = msgpack.unpackb(connection.recv())
            actions = found.pop("actions")
            wanted = expected({"image": image(7), "instruction": LIBERO["prompt"]})
            assert actions == {
                b"__ndarray__": True, b"data": wanted.tobytes(), b"dtype": "<f4", b"shape": [4, 3],
            }  # fmt: skip
            assert found["server_timing"]["infer_ms"] >= 0
            assert ("prev_total_ms" in found["server_timing"]) == again
            # openpi's clients take a row of each array at each step of the chunk: nothing else may be one.
            assert found["latents"] == [5, 6]


@pytest.mark.parametrize(
    "sent, code, named",
    [
        (b"", "bad_message", "not msgpack"),
        (b"\xc1", "bad_message", "not msgpack"),
        ("text", "bad_message", "binary message"),
        ({"image": image()}, "bad_observation", "'instruction' is missing"),
        ({"image": image().astype(float), "prompt": "x"}, "bad_observation", "float64"),
        ({"image": image(), "prompt": "refuse"}, "bad_observation", "shorten the instruction"),
        ({"image": image(), "prompt": "crash"}, "policy_failed", "ZeroDivisionError"),
        ({"image": image(), "prompt": "nan"}, "policy_failed", "not finite"),
        ({"image": image(), "prompt": "short"}, "policy_failed", "[1, 2, 3]"),  # its metadata promise 4 steps
    ],
)
def test_an_error_is_text_and_the_end_with_1011(sent, code, named, serve):
    server = serve()
    found, sentence, closed = server.error_of(sent)
    assert (found, closed) == (code, 1011) and named in sentence
    assert "Traceback" not in sentence
    text = server.request("GET", "/metrics")[2].decode()
    assert f'lapa_errors_total{{code="{code}"}} 1.0' in text


def test_requests_may_be_sent_ahead(serve):
    server = serve(FakePolicy(seconds=0.02))
    with server.connect() as connection:
        connection.recv()
        for i in range(6):
            connection.send(messages.pack({"image": image(i), "prompt": "x" * i}))
        for i in range(6):
            found = messages.unpack(connection.recv(timeout=waiting.PATIENCE))["actions"]
            np.testing.assert_array_equal(found, expected({"image": image(i), "instruction": "x" * i}))


def test_a_client_that_comes_early_is_greeted_when_the_policy_is_warm(serve):
    server = serve(FakePolicy(seconds=0.05), wait=False)
    with server.connect_when_up() as connection:
        assert server.request("GET", "/readyz")[0] == 503
        assert messages.unpack(connection.recv(timeout=waiting.PATIENCE))["horizon"] == 4
        assert server.request("GET", "/readyz")[0] == 200
        assert [*dict.fromkeys(server.policy.batches)] == [1, 2, 4, 8] and server.policy.seeds == [0]


def test_from_another_process_byte_for_byte(shared_server):
    """The program there imports nothing but the standard library: sockets, frames and messages by hand."""
    command = [sys.executable, "-S", str(HERE / "openpi_by_hand.py"), str(shared_server.port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=waiting.PATIENCE)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    wanted = expected({"image": image(7), "wrist": image(9), "instruction": "push", "proprio": [1.0, 2.0]})
    assert found["shape"] == [4, 3] and found["dtype"] == "<f4"
    np.testing.assert_array_equal(np.frombuffer(bytes.fromhex(found["data"]), "<f4").reshape(4, 3), wanted)
    assert found["metadata"]["cameras"] == ["image", "wrist_image"]
    assert json.loads(found["error"])["code"] == "bad_observation" and found["closed"] == 1011


def test_the_package_of_openpi_works_unchanged(shared_server):
    client = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    policy = client.WebsocketClientPolicy(host="127.0.0.1", port=shared_server.port)
    assert policy.get_server_metadata()["cameras"] == ["image", "wrist_image"]
    sent = LIBERO | {"observation/state": np.zeros(2)}
    wanted = expected({"image": image(7), "wrist": image(1), "instruction": LIBERO["prompt"]})
    np.testing.assert_array_equal(policy.infer(sent)["actions"], wanted)
    with pytest.raises(RuntimeError, match="bad_observation"):
        policy.infer({})
