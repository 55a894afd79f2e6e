"""What a port meets: each gets a code and a sentence, the others are served on, and nobody gets actions made up."""

import concurrent.futures
import contextlib
import http.client
import json
import socket
import struct
import threading
import time

import numpy as np
import openpi_by_hand
import pytest
import waiting
import websockets
from fake_policy import FakePolicy, expected, image
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shutdown import process

WHY = "the server is not installed (extra [serve])"
lapa_client = pytest.importorskip("lapa_client", reason=WHY)
messages = pytest.importorskip("lapa_client.messages", reason=WHY)
GOOD = {"image": image(5), "instruction": "push"}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: the connection is cut, not closed


@pytest.fixture(scope="module")
def strict():
    """A server that has little patience."""
    servers = pytest.importorskip("servers", reason=WHY)
    limits = {"header_s": 0.5, "body_s": 0.5, "max_message_mb": 0.5, "max_connections": 128}
    running = servers.Running(FakePolicy(), **limits).until_ready()
    yield running
    running.end()


@pytest.fixture(autouse=True)
def it_still_serves(strict):
    """After each test, and with nothing left over."""
    yield
    with lapa_client.Client(strict.uri) as client:
        np.testing.assert_array_equal(client.infer(GOOD)["actions"], expected(GOOD))
    waiting.until(lambda: not strict.service.open and not any(strict.service.running.values()))


@contextlib.contextmanager
def raw(port, websocket=False):
    with socket.create_connection(("127.0.0.1", port), timeout=waiting.PATIENCE) as connection:
        if websocket:
            openpi_by_hand.handshake(connection, port)
            openpi_by_hand.receive(connection)
        yield connection


def response(connection):
    """(status, body) of what comes until the server closes."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read())


def closed(connection):
    """(close code, reason) of a websocket's last frame."""
    opcode, data = openpi_by_hand.receive(connection)
    assert opcode == 8, (opcode, data)
    return struct.unpack("!H", data[:2])[0], data[2:].decode()


def masked(first, data, length=None):
    """A frame whose first byte is chosen; mask 0."""
    size = len(data) if length is None else length
    head = bytes([0x80 | size]) if size < 126 else b"\xff" + struct.pack("!Q", size)
    return bytes([first]) + head + bytes(4) + data


FRAMES = [
    ("reserved opcode", masked(0x83, b"x"), 1002),
    ("reserved bits", masked(0xF2, b"x"), 1002),
    ("no mask", b"\x82\x01x", 1002),
    ("a ping in parts", masked(0x09, b"x"), 1002),
    ("a ping of 200 bytes", masked(0x89, b"x" * 200), 1002),
    ("the middle of nothing", masked(0x80, b"x"), 1002),
    ("text that is none", masked(0x81, b"\xff\xfe"), 1007),
    ("2^40 bytes announced", masked(0x82, b"", 2**40), 1009),
    ("2^63 - 1 bytes announced", masked(0x82, b"", 2**63 - 1), 1009),
    ("a message too large by one byte", masked(0x82, b"x" * (2**19 + 1)), 1009),
    ("too large in parts", masked(0x02, b"x" * 2**18) + masked(0x00, b"x" * 2**18) + masked(0x80, b"x"), 1009),
]


@pytest.mark.parametrize("frames, code", [pytest.param(*rest, id=name) for name, *rest in FRAMES])
def test_frames_that_are_none(frames, code, strict):
    with raw(strict.port, websocket=True) as connection:
        connection.sendall(frames)
        found, reason = closed(connection)
        assert found == code and (reason or code in (1002, 1007))


@pytest.mark.parametrize(
    "data", [b"\x00" * 50, b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n\r\n", b"POST /act HTTP/9\r\n\r\n",
             b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 30_000 + b"\r\n",
             b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
             b"POST /act HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ids=["zeros", "TLS", "no version", "HTTP 9", "headers without end", "negative length", "no chunk"],
)  # fmt: skip
def test_http_that_is_none(data, strict):
    with raw(strict.port) as connection:
        connection.sendall(data)
        with contextlib.suppress(ConnectionResetError):  # where more was sent than was read
            status, body = response(connection)
            assert status in (400, 408) and body["code"] in ("bad_message", "too_slow") and body["error"]


def trickle(connection, parts, every=0.05):
    """Sends until the server has had enough."""
    with contextlib.suppress(OSError):
        for part in parts:
            connection.sendall(part)
            time.sleep(every)


HEAD = b"POST /act HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    "parts",
    [[], [b"GET / HTTP/1.1\r\n"] + [b"X-A: b\r\n"] * 20, [bytes([one]) for one in b"GET /healthz HTTP/1.1"],
     [HEAD] + [b" "] * 20],
    ids=["nothing", "header by header", "byte by byte", "the body"],
)  # fmt: skip
def test_a_slow_request_is_not_waited_for(parts, strict):
    begun = time.monotonic()
    with raw(strict.port) as connection:
        sender = threading.Thread(target=trickle, args=(connection, parts))
        sender.start()
        status, body = response(connection)
        sender.join()
    assert (status, body["code"]) == (408, "too_slow") and time.monotonic() - begun < 9


@pytest.mark.parametrize(
    "parts",
    [[masked(0x82, b"", 1000)] + [b"x"] * 20, [masked(0x02, b"")] + [masked(0x00, b"")] * 20,
     [masked(0x02, b"x")] + [masked(0x89, b"")] * 20],
    ids=["byte by byte", "part by part", "with pings"],
)  # fmt: skip
def test_a_slow_message_is_not_waited_for(parts, strict):
    with raw(strict.port, websocket=True) as connection:
        sender = threading.Thread(target=trickle, args=(connection, parts))
        sender.start()
        while (found := openpi_by_hand.receive(connection))[0] == 10:
            pass  # pongs
        sender.join()
    assert struct.unpack("!H", found[1][:2])[0] == 1008 and b"too_slow" in found[1]


def test_one_that_only_pings_is_kept(strict):
    with raw(strict.port, websocket=True) as connection:
        for _ in range(15):
            connection.sendall(masked(0x89, b"x"))
            assert openpi_by_hand.receive(connection) == (10, b"x")
            time.sleep(0.05)
        openpi_by_hand.send(connection, messages.pack(GOOD))
        assert openpi_by_hand.receive(connection)[0] == 2


def test_one_that_does_not_read_is_cut(strict, monkeypatch):
    """It asks and asks; once it has not answered a ping its connection ends."""
    for name in ("ws_ping_interval", "ws_ping_timeout"):
        monkeypatch.setattr(strict._server.config, name, 0.3)
    with raw(strict.port, websocket=True) as connection, pytest.raises(OSError):
        connection.settimeout(5)
        for _ in range(200_000):
            openpi_by_hand.send(connection, messages.pack(GOOD))


@pytest.mark.parametrize("sent", [b"", b"GET / HT", HEAD, HEAD + b"{", masked(0x82, b"xy", 100)[:-1]])
def test_clients_that_vanish_half_way(sent, strict):
    for i in range(20):
        with raw(strict.port, websocket=sent[:1] == b"\x82") as connection:
            if i % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sendall(sent)


def test_clients_that_vanish_before_their_answer(strict):
    for i in range(20):
        with raw(strict.port, websocket=True) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            openpi_by_hand.send(connection, messages.pack(GOOD))
        body = json.dumps({"image": image().tolist(), "instruction": "push"}).encode()
        with raw(strict.port) as connection:
            if i % 2:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.sendall(HEAD.replace(b"1000", b"%d" % len(body)) + body)


def test_a_hundred_at_once(strict):
    def drive(number):
        with lapa_client.Client(strict.uri) as client:
            barrier.wait(waiting.PATIENCE)
            asked = {"image": image(number), "instruction": "x" * number}
            return [np.array_equal(client.infer(asked)["actions"], expected(asked)) for _ in range(3)]

    barrier = threading.Barrier(100)
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        assert all(all(found) for found in pool.map(drive, range(100)))


def test_one_too_many_is_told_so(serve):
    server = serve(max_connections=5)
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(server.connect()).recv()
        status, _, body = server.request("POST", "/act", b"x" * 100_000)
        assert (status, body["code"]) == (503, "too_many_connections") and "5 are connected" in body["error"]
        with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
            server.connect()
        assert b"too_many_connections" in refused.value.response.body
        with pytest.raises(lapa_client.Unreachable, match="5 are connected"):
            lapa_client.Client(server.uri, wait_s=0.1)
    server.until_ready()
    with server.connect() as connection:
        connection.recv()


def test_a_flood_is_refused_and_served_when_it_is_over(serve):
    server = serve(max_connections=5)
    flood = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(120)]
    time.sleep(0.2)
    for one in flood:
        one.close()
    server.until_ready()


def judged(port, data):
    """One message over a connection of its own: an error with code and sentence, or the actions that are right."""
    with raw(port, websocket=True) as connection:
        connection.sendall(b"\x82\xfe" + struct.pack("!H", len(data)) + bytes(4) + data)
        opcode, answer = openpi_by_hand.receive(connection)
        if opcode == 1:
            said = json.loads(answer)
            assert said["code"] in ("bad_message", "bad_observation") and said["error"]
            assert closed(connection)[0] == 1011
        else:
            sent = strictly(messages.unpack(data))
            np.testing.assert_array_equal(messages.unpack(answer)["actions"], expected(sent))


def strictly(sent):
    return {"image": sent["image"], "instruction": sent.get("instruction", sent.get("prompt"))}


@settings(max_examples=60)
@given(data=st.binary(min_size=126, max_size=300))
def test_random_messages(data, strict):
    judged(strict.port, data)


@settings(max_examples=120)
@given(data=st.data())
def test_damaged_observations(data, strict):
    good = bytearray(messages.pack({"image": image(5, size=8), "prompt": "push"}))
    head = [i for i in range(len(good)) if i < 60 or i > len(good) - 40]  # where the structure is
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.sampled_from(head))] = data.draw(st.integers(0, 255))
    judged(strict.port, bytes(good))


def resident(pid):
    """MiB in memory of a process."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))
    except FileNotFoundError:
        pytest.skip("no /proc here to read memory from")


def storm(port, rounds):
    """Good and bad requests, each over a connection of its own, and connections that are dropped."""
    big = b"x" * 900_000
    for _ in range(rounds):
        with lapa_client.Client(f"ws://127.0.0.1:{port}") as client:
            np.testing.assert_array_equal(client.infer(GOOD)["actions"], expected(GOOD))
        for bad in (messages.pack({"image": image(1, 200)}), b"\xc1" * 130, messages.pack([[0] * 1000] * 20)):
            with raw(port, websocket=True) as connection:
                connection.sendall(masked(0x82, bad, None if len(bad) < 126 else len(bad)))
                assert openpi_by_hand.receive(connection)[0] == 1
        with raw(port, websocket=True) as connection, contextlib.suppress(OSError):
            connection.sendall(masked(0x82, big))
            assert closed(connection)[0] == 1009
        with raw(port) as connection:
            connection.sendall(HEAD + b"[" * 1000)
            assert response(connection)[0] == 400
        with raw(port) as connection:
            connection.sendall(HEAD + b"{")


@pytest.mark.parametrize("rounds", [15, pytest.param(170, marks=pytest.mark.slow)])
def test_memory_does_not_grow(rounds):
    """Six connections a round: about a hundred, and slowly a thousand."""
    with process({}, {"max_message_mb": 0.8}) as (one, port):
        storm(port, 10)
        before = resident(one.pid)
        storm(port, rounds)
        assert resident(one.pid) - before < 12
        assert one.poll() is None


@pytest.mark.slow
def test_a_thousand_in_a_row(strict):
    for i in range(1000):
        asked = {"image": image(i % 256), "instruction": "x" * (i % 50)}
        with lapa_client.Client(strict.uri) as client:
            np.testing.assert_array_equal(client.infer(asked)["actions"], expected(asked))
