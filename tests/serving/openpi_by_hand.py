"""openpi's client in the standard library alone: what goes over the wire is written here byte by byte.

    python -S tests/serving/openpi_by_hand.py PORT

Asks for the actions of one observation, then sends a wrong one; prints what came back as JSON.
"""

import json
import os
import socket
import struct
import sys


def handshake(connection, port):
    lines = [
        "GET / HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13", "", "",
    ]  # fmt: skip
    connection.sendall("\r\n".join(lines).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    assert b"101" in answer.splitlines()[0] and b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in answer, answer


def send(connection, data):
    """One binary message, masked as RFC 6455 has it."""
    mask = os.urandom(4)
    length = bytes([0x80 | 126]) + struct.pack("!H", len(data))
    connection.sendall(b"\x82" + length + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(data)))


def exactly(connection, count):
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        assert part, "the server closed"
        data += part
    return data


def receive(connection):
    """(opcode, data) of a message in one frame."""
    first, length = exactly(connection, 2)
    if length == 126:
        (length,) = struct.unpack("!H", exactly(connection, 2))
    elif length == 127:
        (length,) = struct.unpack("!Q", exactly(connection, 8))
    return first & 15, exactly(connection, length)


def text(word):
    """Of less than 32 bytes."""
    return bytes([0xA0 | len(word)]) + word.encode()


def array(dtype, shape, data):
    """The map of four that openpi's msgpack_numpy writes for an array."""
    sizes = b"".join(bytes([size]) for size in shape)
    return (
        b"\x84\xc4\x0b__ndarray__\xc3"
        + b"\xc4\x04data\xc5" + struct.pack("!H", len(data)) + data
        + b"\xc4\x05dtype" + text(dtype)
        + b"\xc4\x05shape" + bytes([0x90 | len(shape)]) + sizes
    )  # fmt: skip


def unpack(data):
    """The rest of msgpack that a server may send: maps, lists, text, bytes, numbers; (value, bytes left)."""
    kind, rest = data[0], data[1:]
    if kind < 0x80:
        return kind, rest
    if kind < 0x90 or kind == 0xDE:
        count, rest = (kind & 15, rest) if kind < 0x90 else (struct.unpack("!H", rest[:2])[0], rest[2:])
        found = {}
        for _ in range(count):
            key, rest = unpack(rest)
            found[key], rest = unpack(rest)
        return found, rest
    if kind < 0xA0 or kind == 0xDC:
        count, rest = (kind & 15, rest) if kind < 0xA0 else (struct.unpack("!H", rest[:2])[0], rest[2:])
        found = []
        for _ in range(count):
            value, rest = unpack(rest)
            found.append(value)
        return found, rest
    sizes = {0xC4: "!B", 0xC5: "!H", 0xC6: "!I", 0xD9: "!B", 0xDA: "!H", 0xDB: "!I"}
    if kind < 0xC0 or kind in sizes:
        length = kind & 31
        if kind in sizes:
            width = struct.calcsize(sizes[kind])
            (length,), rest = struct.unpack(sizes[kind], rest[:width]), rest[width:]
        value = rest[:length]
        return (value if kind in (0xC4, 0xC5, 0xC6) else value.decode()), rest[length:]
    constants = {0xC0: None, 0xC2: False, 0xC3: True}
    if kind in constants:
        return constants[kind], rest
    if kind >= 0xE0:
        return kind - 256, rest
    numbers = {0xCA: "!f", 0xCB: "!d", 0xCC: "!B", 0xCD: "!H", 0xCE: "!I", 0xCF: "!Q", 0xD0: "!b", 0xD1: "!h"}
    width = struct.calcsize(numbers[kind])
    return struct.unpack(numbers[kind], rest[:width])[0], rest[width:]


def main(port):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        handshake(connection, port)
        metadata, left = unpack(receive(connection)[1])
        assert not left
        observation = (
            b"\x84"
            + text("observation/image") + array("|u1", (16, 16, 3), b"\x07" * 768)
            + text("observation/wrist_image") + array("|u1", (16, 16, 3), b"\x09" * 768)
            + text("observation/state") + array("<f8", (2,), struct.pack("<2d", 1.0, 2.0))
            + text("prompt") + text("push")
        )  # fmt: skip
        send(connection, observation)
        opcode, data = receive(connection)
        assert opcode == 2, data
        actions = unpack(data)[0]["actions"]
        send(connection, b"\x81" + text("prompt") + text("push") + b"" * 130)
        opcode, error = receive(connection)
        assert opcode == 1, error
        opcode, reason = receive(connection)
        assert opcode == 8, reason
    found = {name.decode(): value for name, value in actions.items()}
    found |= {"data": found["data"].hex(), "metadata": metadata}
    found |= {"error": error.decode(), "closed": struct.unpack("!H", reason[:2])[0]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]))
