"""The few instructions that pickles of ours are written with."""

import pickletools

CODE = {op.name: op.code.encode("latin-1") for op in pickletools.opcodes}
"""Name of an opcode -> its byte."""


def call(name: str, *arguments: bytes) -> bytes:
    """"module name" called with arguments."""
    return reference(name) + tuple_(*arguments) + CODE["REDUCE"]


def reference(name: str) -> bytes:
    return CODE["GLOBAL"] + name.replace(" ", "\n").encode() + b"\n"


def tuple_(*items: bytes) -> bytes:
    return CODE["MARK"] + b"".join(items) + CODE["TUPLE"]


def string(text: str) -> bytes:
    data = text.encode()
    return CODE["BINUNICODE"] + len(data).to_bytes(4, "little") + data


def integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return CODE["LONG1"] + len(data).to_bytes(1, "little") + data
