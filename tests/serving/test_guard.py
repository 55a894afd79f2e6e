"""Who may ask: tokens, and pages of other origins."""

import base64

import pytest
import websockets
from fake_policy import image

WHY = "the server is not installed (extra [serve])"
messages = pytest.importorskip("lapa_client.messages", reason=WHY)
BODY = {"image": image().tolist(), "instruction": "push"}


@pytest.fixture(scope="module")
def guarded():
    servers = pytest.importorskip("servers", reason=WHY)
    from fake_policy import FakePolicy

    running = servers.Running(FakePolicy(), token="s3cret").until_ready()
    yield running
    running.end()


def basic(password):
    return "Basic " + base64.b64encode(f"me:{password}".encode()).decode()


@pytest.mark.parametrize("said", ["Bearer s3cret", "Api-Key s3cret", "bearer s3cret", basic("s3cret")])
def test_the_token_opens(said, guarded):
    assert guarded.request("POST", "/act", BODY, authorization=said)[0] == 200
    with guarded.connect(additional_headers={"Authorization": said}) as connection:
        assert messages.unpack(connection.recv())["horizon"] == 4


WRONG = ["", "s3cret", "Bearer", "Bearer s3cre", "Bearer s3cret2", "Digest s3cret", "Basic ???", "Bearer é"]
WRONG += [basic("x")]


@pytest.mark.parametrize("said", WRONG)
def test_anything_else_does_not(said, guarded):
    headers = {"authorization": said.encode()} if said else {}
    status, found, body = guarded.request("POST", "/act", BODY, **headers)
    assert (status, body["code"]) == (401, "unauthorized") and "Basic" in found["www-authenticate"]
    assert "s3cret" not in body["error"]
    for path in ("/metadata", "/metrics", "/nothing"):
        assert guarded.request("GET", path, **headers)[0] == 401
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        guarded.connect(additional_headers={"Authorization": said.encode().decode("latin-1")} if said else {})
    assert refused.value.response.status_code == 401 and b"unauthorized" in refused.value.response.body


def test_monitors_need_none(guarded):
    assert guarded.request("GET", "/healthz")[0] == guarded.request("GET", "/readyz")[0] == 200


@pytest.mark.parametrize("origin", ["https://elsewhere.example", "null", "http://127.0.0.1:1"])
def test_pages_of_other_origins_may_not_use_the_server(origin, shared_server):
    status, _, body = shared_server.request("POST", "/act", BODY, origin=origin)
    assert (status, body["code"]) == (403, "forbidden_origin")
    with pytest.raises(websockets.exceptions.InvalidStatus, match="403"):
        shared_server.connect(additional_headers={"Origin": origin})


def test_its_own_pages_may(shared_server):
    origin = f"http://127.0.0.1:{shared_server.port}"
    with shared_server.connect(additional_headers={"Origin": origin}) as connection:
        connection.recv()


def test_a_name_that_somebody_gave_this_machine_is_no_way_in():
    """DNS rebinding: Origin and Host agree, and neither is ours."""
    Headers = pytest.importorskip("starlette.datastructures", reason=WHY).Headers
    from lapa_jax.serving import failures, guard

    evil = Headers({"origin": "http://evil.example:8000", "host": "evil.example:8000"})
    guard.check_origin(evil)
    with pytest.raises(failures.Failure, match="evil.example"):
        guard.check_origin(evil, ("localhost", "127.0.0.1"))
    guard.check_origin(Headers({"origin": "http://localhost:8000", "host": "localhost:8000"}), ("localhost",))
    with pytest.raises(failures.Failure, match="may not use"):
        guard.check_origin(Headers({"origin": "http://[", "host": "["}))
