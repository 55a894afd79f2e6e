"""POST /act in all its forms, and what monitors ask."""

import base64
import io
import json

import numpy as np
import pytest
from fake_policy import FakePolicy, expected
from PIL import Image

WHY = "the server is not installed (extra [serve])"
messages = pytest.importorskip("lapa_client.messages", reason=WHY)
NOISE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), dtype=np.uint8)
WANTED = expected({"image": NOISE, "instruction": "push"})
JSON = {"content_type": "application/json"}


def base64_of(array, kind="PNG", mode=None):
    stream = io.BytesIO()
    (Image.fromarray(array).convert(mode) if mode else Image.fromarray(array)).save(stream, kind)
    return base64.b64encode(stream.getvalue()).decode()


def json_numpy(array):
    """What the package json_numpy makes of an array (seen in its version 2.1.1)."""
    data = base64.b64encode(np.ascontiguousarray(array).data).decode()
    return {"__numpy__": data, "dtype": array.dtype.str, "shape": list(array.shape)}


def from_json_numpy(found):
    assert found.keys() == {"__numpy__", "dtype", "shape"}
    return np.frombuffer(base64.b64decode(found["__numpy__"]), found["dtype"]).reshape(found["shape"])


PNG = base64_of(NOISE)


@pytest.mark.parametrize(
    "picture",
    [PNG, "data:image/png;base64," + PNG, PNG[:40] + "\n" + PNG[40:], NOISE.tolist()],
    ids=["base64", "data URL", "base64 in lines", "lists"],
)
def test_an_image_inside_json(picture, serve):
    status, _, found = serve().request("POST", "/act", {"image": picture, "instruction": "push"})
    assert status == 200 and found.keys() == {"actions", "latents", "server_timing"}
    np.testing.assert_array_equal(np.float32(found["actions"]), WANTED)
    assert found["latents"] == [5, 6]


def test_a_jpeg_is_nearly_the_image(serve):
    smooth = np.full((32, 32, 3), 100, np.uint8)
    sent = {"image": base64_of(smooth, "JPEG"), "instruction": "push"}
    found = serve().request("POST", "/act", sent)[2]
    np.testing.assert_allclose(found["actions"], expected({"image": smooth, "instruction": "push"}), atol=2)


def test_openvlas_clients_get_one_action_as_their_server_gives_it(serve):
    server = serve()
    sent = {"image": json_numpy(NOISE), "instruction": "push"}
    found = from_json_numpy(server.request("POST", "/act", sent)[2])
    np.testing.assert_array_equal(found, WANTED[0])
    encoded = server.request("POST", "/act", {"encoded": json.dumps(sent)})[2]
    assert isinstance(encoded, str)
    np.testing.assert_array_equal(from_json_numpy(json.loads(encoded)), WANTED[0])
    chunk = from_json_numpy(server.request("POST", "/act?chunk=1", sent)[2])
    np.testing.assert_array_equal(chunk, WANTED)


def test_msgpack_works_too(serve):
    body = messages.pack({"image": NOISE, "prompt": "push"})
    status, headers, found = serve().request("POST", "/act", body, content_type="application/msgpack")
    assert status == 200 and headers["content-type"] == "application/msgpack"
    np.testing.assert_array_equal(messages.unpack(found)["actions"], WANTED)


GOOD = {"image": base64_of(NOISE), "instruction": "push"}
WRONG = [
    (b"{", JSON, 400, "bad_message", "not JSON"),
    (b"\xff\xfe{}", JSON, 400, "bad_message", "not JSON"),
    (b"[" * 100_000, JSON, 400, "bad_message", "nested too deep"),
    (b"[]," * 1_000_001, JSON, 413, "too_large", "lists"),
    (b'{"proprio": [NaN]}', JSON, 400, "bad_message", "NaN"),
    (b"1" * 5000, JSON, 400, "bad_message", "not JSON"),
    (b"{}", {}, 415, "unsupported", "send application/json"),
    (b"{}", {"content_type": "text/plain"}, 415, "unsupported", "'text/plain'"),
    (b"{}", JSON | {"content_encoding": "gzip"}, 415, "unsupported", "as it is"),
    (b"\xc1", {"content_type": "application/msgpack"}, 400, "bad_message", "not msgpack"),
    (b"[]", JSON, 422, "bad_observation", "an observation is a map"),
    (GOOD | {"image": "not base64!"}, {}, 422, "bad_observation", "not base64"),
    (GOOD | {"image": base64.b64encode(b"GIF89a").decode()}, {}, 422, "bad_observation", "no PNG or JPEG"),
    (GOOD | {"image": base64_of(NOISE, "GIF")}, {}, 422, "bad_observation", "no PNG or JPEG"),
    (GOOD | {"image": base64_of(NOISE)[:200]}, {}, 422, "bad_observation", "PNG or JPEG"),
    (GOOD | {"image": base64_of(NOISE, mode="L")}, {}, 422, "bad_observation", "mode L: give RGB"),
    (GOOD | {"image": base64_of(np.zeros((4100, 4100, 3), np.uint8))}, {}, 422, "bad_observation", "4100x4100"),
    (GOOD | {"image": [[[1, 2, 3], [4, 5]]]}, {}, 422, "bad_observation", "differ in length"),
    (GOOD | {"image": [[[1, 2, 300]]]}, {}, 422, "bad_observation", "int64[1, 1, 3]"),
    (GOOD | {"image": [[[0.5, 0.5, 0.5]]]}, {}, 422, "bad_observation", "float64[1, 1, 3]"),
    (GOOD | {"image": json_numpy(NOISE) | {"shape": [1]}}, {}, 422, "bad_observation", "json_numpy"),
    (GOOD | {"image": json_numpy(NOISE) | {"__numpy__": 5}}, {}, 422, "bad_observation", "base64 is text"),
    (GOOD | {"image": 5}, {}, 422, "bad_observation", "image is int"),
    (GOOD | {"instruction": 5}, {}, 422, "bad_observation", "instruction is int"),
    (GOOD | {"instruction": "refuse"}, {}, 422, "bad_observation", "shorten"),
    (GOOD | {"instruction": "crash"}, {}, 500, "policy_failed", "ZeroDivisionError"),
    (GOOD | {"unnorm_key": "bridge_orig"}, {}, 422, "bad_observation", "'unnorm_key' is no field"),
    ({"encoded": "{}", "image": 5}, {}, 422, "bad_observation", "stands alone"),
    ({"encoded": "{"}, {}, 400, "bad_message", "not JSON"),
]


@pytest.fixture(scope="module")
def plain_server():
    servers = pytest.importorskip("servers", reason=WHY)
    running = servers.Running(FakePolicy()).until_ready()
    yield running
    running.end()


@pytest.mark.parametrize("body, headers, status, code, named", WRONG, ids=range(len(WRONG)))
def test_errors_have_status_code_and_sentence(body, headers, status, code, named, plain_server):
    found, _, said = plain_server.request("POST", "/act", body, **headers)
    assert (found, said["code"]) == (status, code) and named in said["error"], said
    assert plain_server.request("POST", "/act", GOOD)[0] == 200


def test_paths_and_methods_that_are_not_there(plain_server):
    status, _, said = plain_server.request("GET", "/nothing")
    assert (status, said["code"]) == (404, "not_found")
    status, headers, said = plain_server.request("GET", "/act")
    assert (status, said["code"]) == (405, "method_not_allowed")


def test_a_body_that_is_too_large_is_read_to_its_end_and_named(serve):
    server = serve(max_message_mb=0.25)
    body = b"x" * 20_000_000
    status, _, said = server.request("POST", "/act", body, **JSON)
    assert (status, said["code"]) == (413, "too_large") and "262144 bytes" in said["error"]
    status, _, said = server.request("POST", "/act", iter([b"x" * 200_000] * 3), **JSON)  # no length announced
    assert (status, said["code"]) == (413, "too_large")


def test_monitors(plain_server):
    assert plain_server.request("GET", "/healthz")[::2] == (200, b"OK\n")
    assert plain_server.request("GET", "/readyz")[0] == 200
    status, _, metadata = plain_server.request("GET", "/metadata")
    assert metadata["horizon"] == 4 and metadata["server"]["name"] == "lapa_jax"


def test_metrics_count_requests_batches_and_errors(serve):
    server = serve()
    server.request("POST", "/act", GOOD)
    server.request("POST", "/act", GOOD | {"instruction": "refuse"})
    text = server.request("GET", "/metrics")[2].decode()
    for line in (
        'lapa_request_seconds_count{transport="http"} 1.0',
        "lapa_infer_seconds_count 2.0",
        "lapa_queue_seconds_count 2.0",
        'lapa_batch_size_bucket{le="1.0"} 2.0',
        'lapa_errors_total{code="bad_observation"} 1.0',
        "lapa_ready 1.0",
    ):
        assert line in text.splitlines(), line


def test_other_routes_share_the_policy(serve):
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def page(request):
        found = await request.app.state.service.infer({"image": NOISE, "prompt": "push"})
        return JSONResponse(found["actions"].tolist())

    server = serve(extra_routes=[Route("/page", page)])
    np.testing.assert_array_equal(np.float32(server.request("GET", "/page")[2]), WANTED)


def test_answers_leave_at_once():
    """Headers and body are two packets: without TCP_NODELAY the second waits until the first is acknowledged."""
    import socket

    from lapa_jax.serving import server

    with server.bind("127.0.0.1", 0) as listening, socket.socket() as client:
        listening.listen()
        client.connect(listening.getsockname())
        with listening.accept()[0] as accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # what asyncio asks before it sets it
