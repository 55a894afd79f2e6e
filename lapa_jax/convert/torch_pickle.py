"""The pickle inside a file of `torch.save`: read as data, never run; and written.

A pickle is a program for a stack machine. This one knows the opcodes that torch writes for a state dict and the
names below, and it calls nothing: what would be a call becomes a description. All else is refused by name.
"""

import dataclasses
import pickletools
from collections.abc import Iterable, Mapping
from typing import Any

from lapa_jax import errors

MAX_BYTES = 1 << 20
"""Longest pickle that is read. Each tensor takes about 200 bytes; the official LAQ has 493."""
MAX_DIMENSIONS = 16

STORAGES = tuple(f"{kind}Storage" for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split())
DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"
GLOBALS = {DICT, TENSOR, PARAMETER, *(f"torch {name}" for name in STORAGES)}
"""Module and name of all that a state dict refers to."""

_CODE = {op.name: op.code.encode("latin-1") for op in pickletools.opcodes}


@dataclasses.dataclass(frozen=True, eq=False)
class Storage:
    """`count` elements of torch's class `kind` in the record data/`key`."""

    kind: str
    key: str
    count: int


@dataclasses.dataclass(frozen=True, eq=False)
class Tensor:
    """A view of a storage; `offset` and `strides` in elements. Nothing in it has been checked but its types."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class _Global:
    name: str


class _Refused(Exception):
    """Why a pickle is not read; `loads` adds the file."""


def loads(data: bytes | memoryview, path: str) -> Any:
    """What the pickle describes: dicts, lists, tuples, numbers, strings, and `Tensor` for tensors.

    Time and memory are in proportion to its length, which is bounded.

    Args:
        path: of the file, for messages.

    Raises:
        UserError: it is too long, damaged, or wants something that a state dict does not need.
    """
    if len(data) > MAX_BYTES:
        raise errors.UserError(
            f"{path}: its pickle has {len(data)} bytes and that of a state dict less than {MAX_BYTES}: "
            "save the state dict by itself"
        )
    machine = _Machine()
    try:
        for op, argument, _ in pickletools.genops(bytes(data)):
            machine.step(op.name, argument)
        return machine.pop(object)
    except _Refused as error:
        raise errors.UserError(f"{path}: {error}; nothing of it was executed") from None
    except (ValueError, IndexError) as error:  # of genops, and of a stack that is too short
        raise errors.UserError(f"{path}: its pickle is damaged ({in_short(error)}): copy the file again") from None


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks set aside by MARK
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        match name:
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT":
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                if argument not in self.memo:
                    raise ValueError(f"no memo {argument}")
                self.stack.append(self.memo[argument])
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE":
                items = self.above_mark()
                self.stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(reversed([self.stack.pop() for _ in range(int(name[-1]))])))
            case "EMPTY_TUPLE" | "EMPTY_DICT" | "EMPTY_LIST":
                self.stack.append({"TUPLE": tuple, "DICT": dict, "LIST": list}[name[6:]]())
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                self.stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "SETITEM":
                value, key = self.stack.pop(), self.stack.pop()
                self.set_items([key, value])
            case "SETITEMS":
                self.set_items(self.above_mark())
            case "APPEND" | "APPENDS":
                items = [self.stack.pop()] if name == "APPEND" else self.above_mark()
                _of(list, self.stack[-1]).extend(items)
            case "GLOBAL":
                self.stack.append(_global(argument))
            case "BINPERSID":
                self.stack.append(_storage(self.stack.pop()))
            case "REDUCE":
                arguments = self.pop(tuple)
                self.stack.append(_described(self.pop(_Global).name, arguments))
            case "BUILD":  # attributes of the dict: torch keeps version numbers of modules there
                self.pop(dict)
                _of(dict, self.stack[-1])
            case "PROTO" | "STOP":
                pass
            case _:
                raise _Refused(f"its pickle uses the opcode {name}, which no state dict of torch.save needs")

    def pop(self, kind: type) -> Any:
        return _of(kind, self.stack.pop())

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def set_items(self, items: list[Any]) -> None:
        target = _of(dict, self.stack[-1])
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise _Refused(f"a dict has a key of type {_kind(key)}")
            if key in target:
                raise _Refused(f"a dict has the key {in_short(key)} twice")
            target[key] = value


def _of(kind: type, value: Any) -> Any:
    if kind is not object and type(value) is not kind:
        raise _Refused(f"its pickle has a {_kind(value)} where torch.save writes a {_kind(kind)}")
    return value


def _global(name: str) -> _Global:
    if name not in GLOBALS:
        raise _Refused(
            f"its pickle asks for {in_short(name.replace(' ', '.'))}, which no state dict needs: refused. "
            "If you trust its origin, save the state dict by itself with torch"
        )
    return _Global(name)


def _storage(identity: Any) -> Storage:
    match identity:
        case ("storage", _Global(name=name), str(key), str(_), count) if type(count) is int and count >= 0:
            if (kind := name.removeprefix("torch ")) in STORAGES:
                return Storage(kind, key, count)
    raise _Refused("a persistent id is not (storage, type, key, device, count)")


def _described(name: str, arguments: tuple[Any, ...]) -> Any:
    """What calling `name` with `arguments` would make."""
    if len(arguments) <= 8:
        if name == DICT and not arguments:
            return {}
        if name == PARAMETER and isinstance(next(iter(arguments), None), Tensor):
            return arguments[0]
        if name == TENSOR and (tensor := _tensor(*arguments[:4])) and not any(arguments[6:]):
            return tensor
    raise _Refused(f"{name.replace(' ', '.')} is called with arguments that torch.save does not write")


def _tensor(storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None) -> Tensor | None:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        return None
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        return None
    sizes = offset, *shape, *strides
    return Tensor(storage, offset, shape, strides) if all(type(n) is int and n >= 0 for n in sizes) else None


def _kind(value: Any) -> str:
    kind = value if isinstance(value, type) else type(value)
    return {_Global: "class or function", Storage: "storage", Tensor: "tensor"}.get(kind, kind.__name__)


def in_short(value: object, length: int = 80) -> str:
    """`value` as ASCII in one line of bounded length; of a container only what it is."""
    text = ascii(value) if isinstance(value, str | int | float) else str(value)
    text = ascii(text)[1:-1] if not text.isascii() or not text.isprintable() else text
    return text if len(text) <= length else text[: length - 3] + "..."


def dumps(tensors: Mapping[str, Tensor]) -> bytes:
    """The pickle of a flat state dict; each tensor has a storage of its own."""
    return b"".join(_program(tensors))


def _program(tensors: Mapping[str, Tensor]) -> Iterable[bytes]:
    yield _CODE["PROTO"] + b"\x02"
    yield _call(DICT) + _CODE["MARK"]
    for name, tensor in tensors.items():
        storage = tensor.storage
        kind = _reference(f"torch {storage.kind}")
        identity = _tuple(_string("storage"), kind, _string(storage.key), _string("cpu"), _integer(storage.count))
        sizes = [_tuple(*map(_integer, numbers)) for numbers in (tensor.shape, tensor.strides)]
        view = _integer(tensor.offset), *sizes, _CODE["NEWFALSE"], _call(DICT)  # no gradient, no hooks
        yield _string(name) + _call(TENSOR, identity + _CODE["BINPERSID"], *view)
    yield _CODE["SETITEMS"] + _CODE["STOP"]


def _call(name: str, *arguments: bytes) -> bytes:
    return _reference(name) + _tuple(*arguments) + _CODE["REDUCE"]


def _reference(name: str) -> bytes:
    return _CODE["GLOBAL"] + name.replace(" ", "\n").encode() + b"\n"


def _tuple(*items: bytes) -> bytes:
    return _CODE["MARK"] + b"".join(items) + _CODE["TUPLE"]


def _string(text: str) -> bytes:
    data = text.encode()
    return _CODE["BINUNICODE"] + len(data).to_bytes(4, "little") + data


def _integer(value: int) -> bytes:
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return _CODE["LONG1"] + len(data).to_bytes(1, "little") + data
