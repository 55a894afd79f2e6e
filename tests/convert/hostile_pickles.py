"""Pickles that no reader may run, believe or choke on."""

import collections
import contextlib
import os
import pickletools
import sys
import tracemalloc

EVENTS: list[str] = []
"""What happened while `quiet` watched."""
WATCHED = ("os.", "exec", "compile", "import", "pickle.", "subprocess.", "open", "ctypes.", "socket.")
watching = False


def _hook(event: str, _: tuple) -> None:
    if watching and event.startswith(WATCHED):
        EVENTS.append(event)


sys.addaudithook(_hook)  # it stays for good, and does nothing unless `watching`


@contextlib.contextmanager
def quiet():
    """Fails when the interpreter ran, imported or opened anything inside."""
    global watching
    EVENTS.clear()
    watching = True
    try:
        yield
    finally:
        watching = False
    assert not EVENTS


@contextlib.contextmanager
def bounded(most: int):
    """Fails when Python allocates more bytes than that inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


CODES = [op.code.encode("latin-1") for op in pickletools.opcodes]
"""Every opcode that there is."""

DICT = b"ccollections\nOrderedDict\n"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
PARAMETER = b"ctorch._utils\n_rebuild_parameter\n"
FLOAT = b"ctorch\nFloatStorage\n"


class Call:
    """Pickles as `function(*arguments)`, with `state` for BUILD."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) + (() if state is None else (state,))

    def __reduce__(self):
        return self.reduced


class Restored:
    """An object whose __setstate__ does the harm."""

    path = None

    def __getstate__(self):
        return {"path": Restored.path}

    def __setstate__(self, state):
        open(state["path"], "w").close()


def attack(path: str):
    """name -> object; loading its pickle makes the file at `path`."""
    command = f"touch {path}"
    Restored.path = path
    return {
        "system": Call(os.system, command),
        "eval": Call(eval, f"open({path!r}, 'w')"),
        "exec": Call(exec, f"open({path!r}, 'w')"),
        "open": Call(open, path, "w"),
        "nested": {"model": [({"weights": Call(os.system, command)},)]},
        "as argument": Call(collections.OrderedDict, Call(os.system, command)),
        "as key": {Call(str, Call(os.system, command)): 1},
        "setstate": Restored(),
        "after an import": [Call(__import__, "json"), Call(os.system, command)],
        "attributes": Call(collections.OrderedDict, state={"x": Call(os.system, command)}),
    }


def program(*steps: bytes) -> bytes:
    return b"\x80\x02" + b"".join(steps) + b"."


def text(value: bytes) -> bytes:
    return b"X" + len(value).to_bytes(4, "little") + value


STORAGE = b"(" + text(b"storage") + FLOAT + text(b"0") + text(b"cpu") + b"K\1tQ"
"""One float on the stack."""

HAND_MADE = {
    "stack global": program(b"\x8c\x02os", b"\x8c\x06system", b"\x93"),
    "inst": program(b"(S'id'\n", b"ios\nsystem\n"),
    "obj": program(b"(", b"cos\nsystem\n", b"S'id'\n", b"o"),
    "newobj": program(DICT, b")", b"\x81"),
    "extension": program(b"\x82\x01"),
    "text persistent id": program(b"Pstorage\n"),
    "persistent id of a function": program(DICT, b"Q"),
    "persistent id of numbers": program(b"(K\x01K\x02K\x03K\x04K\x05t", b"Q"),
    "persistent id of a name": program(STORAGE.replace(FLOAT, text(b"FloatStorage"))),
    "persistent id of another class": program(STORAGE.replace(FLOAT, DICT)),
    "persistent id of less than nothing": program(STORAGE.replace(b"K\1", b"J\xff\xff\xff\xff")),
    "call of a string": program(text(b"os"), b")", b"R"),
    "call of a result": program(DICT, b")R", b")R"),
    "call with a list": program(DICT, b"]", b"R"),
    "tensor of no storage": program(TENSOR, b"(NK\0))\x89Nt", b"R"),
    "parameter of no tensor": program(PARAMETER, b"(", FLOAT, b"\x88Nt", b"R"),
    "storage called": program(FLOAT, b")R"),
    "build on a function": program(DICT, b"}b"),
    "build with a call": program(b"}", DICT, b"b"),
    "dotted name": program(b"ccollections\nOrderedDict.__init__.__globals__\n"),
    "other name of torch": program(b"ctorch\nload\n"),
    "newline in a name": program(b"ccollections \nOrderedDict\n"),
    "unhashable key": program(b"}]K\1s"),
    "tuple key": program(b"})K\1s"),
    "same key twice": program(b"}", b"K\1K\1s", b"K\1K\1s"),
    "item of a list": program(b"]K\1K\1s"),
    "append to a tuple": program(b")K\1a"),
    "negative size": program(TENSOR, b"(", STORAGE, b"K\0J\xff\xff\xff\xff\x85K\1\x85\x89}t", b"R"),
    "size that is no number": program(TENSOR, b"(", STORAGE, b"K\0N\x85K\1\x85\x89}t", b"R"),
    "more sizes than strides": program(TENSOR, b"(", STORAGE, b"K\0K\1K\1\x86K\1\x85\x89}t", b"R"),
    "too many dimensions": program(TENSOR, b"(", STORAGE, b"K\0(" + b"K\1" * 17 + b"tq\0h\0\x89}t", b"R"),
    "conjugated": program(TENSOR, b"(", STORAGE, b"K\0))\x89}}", text(b"conj"), b"\x88st", b"R"),
}
"""Whole programs that do what no state dict needs."""

DAMAGED = {
    "empty": b"",
    "no end": b"\x80\x02}",
    "nothing on the stack": program(),
    "stack too short": program(b"s"),
    "no mark": program(b"t"),
    "no such memo": program(b"h\5"),
    "odd items": program(b"}(K\1u"),
    "string longer than the file": program(b"X\xff\xff\xff\x7fabc"),
    "no text": program(b"X\1\0\0\0\xff"),
    "huge integer in text": program(b"I" + b"9" * 5000 + b"\n"),
    "bytes beyond memory": program(b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "frame beyond memory": program(b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f"),
    "text in another code": program(b"c\xff\nx\n"),
    "unknown opcode": program(b"\xee"),
}
"""What is no program, or leaves the stack."""


def filled(body: bytes, end: bytes = b".", start: bytes = b"\x80\x02", size: int = 1 << 15) -> bytes:
    return start + body * ((size - len(start) - len(end)) // len(body)) + end


GREEDY = {
    "marks": filled(b"("),
    "dicts": filled(b"}"),
    "memo": filled(b"r\0\0\0\0", start=b"\x80\x02N"),
    "nested tuples": filled(b"\x85", start=b"\x80\x02N"),
    "doubled tuples": filled(b"q\0h\0\x86", start=b"\x80\x02N"),
    "a list in itself": filled(b"h\0a", start=b"\x80\x02]q\0"),
    "large numbers": filled(b"\x8a\xff" + b"\x7f" * 255),
    "one long shape, many tensors": filled(
        b"h\1(h\2K\0h\0h\0\x89}tR",
        start=b"\x80\x02(" + b"K\1" * 10_000 + b"tq\0" + TENSOR + b"q\1" + STORAGE + b"q\2",
    ),
    "many arguments": filled(b"h\1h\0R", start=b"\x80\x02(" + b"K\1" * 10_000 + b"tq\0" + DICT + b"q\1"),
}
"""What grows, as far as it can."""
