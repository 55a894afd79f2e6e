"""The pickle inside a file of `torch.save`: read as data, never run; and written.

`pickle_machine` runs nothing; here is what a state dict may refer to, and what that describes.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from lapa_jax import errors
from lapa_jax.convert import pickle_machine
from lapa_jax.convert import pickle_writing as w
from lapa_jax.convert.pickle_machine import Global, Refused

MAX_BYTES = 1 << 20
"""Longest pickle that is read. Each tensor takes about 200 bytes; the official LAQ has 493."""
MAX_DIMENSIONS = 16

STORAGES = tuple(f"{kind}Storage" for kind in "Double Float Half BFloat16 Long Int Short Char Byte Bool".split())
DICT = "collections OrderedDict"
TENSOR = "torch._utils _rebuild_tensor_v2"
PARAMETER = "torch._utils _rebuild_parameter"


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
    return _Machine().read(bytes(data), path)


class _Machine(pickle_machine.Machine):
    writer, content = "torch.save", "state dict"
    advice = "If you trust its origin, save the state dict by itself with torch"
    opcodes = pickle_machine.OPCODES | {"BINFLOAT", "EMPTY_LIST", "APPEND", "APPENDS", "BINPERSID"}
    names = frozenset({DICT, TENSOR, PARAMETER, *(f"torch {name}" for name in STORAGES)})

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        if len(arguments) <= 8:
            if name == DICT and not arguments:
                return {}
            if name == PARAMETER and isinstance(next(iter(arguments), None), Tensor):
                return arguments[0]
            if name == TENSOR and (tensor := _tensor(*arguments[:4])) and not any(arguments[6:]):
                return tensor
        raise self.odd_call(name)

    def build(self, target: Any, state: Any) -> None:
        """Attributes of the dict: torch keeps version numbers of modules there."""
        self.of(dict, state)
        self.of(dict, target)

    def persistent(self, identity: Any) -> Storage:
        match identity:
            case ("storage", Global(name=name), str(key), str(_), count) if type(count) is int and count >= 0:
                if (kind := name.removeprefix("torch ")) in STORAGES:
                    return Storage(kind, key, count)
        raise Refused("a persistent id is not (storage, type, key, device, count)")


def _tensor(storage: Any = None, offset: Any = None, shape: Any = None, strides: Any = None) -> Tensor | None:
    if type(storage) is not Storage or type(shape) is not tuple or type(strides) is not tuple:
        return None
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        return None
    sizes = offset, *shape, *strides
    return Tensor(storage, offset, shape, strides) if all(type(n) is int and n >= 0 for n in sizes) else None


def dumps(tensors: Mapping[str, Tensor]) -> bytes:
    """The pickle of a flat state dict; each tensor has a storage of its own."""
    return b"".join(_program(tensors))


def _program(tensors: Mapping[str, Tensor]) -> Iterable[bytes]:
    yield w.CODE["PROTO"] + b"\x02"
    yield w.call(DICT) + w.CODE["MARK"]
    for name, tensor in tensors.items():
        storage = tensor.storage
        kind = w.reference(f"torch {storage.kind}")
        identity = w.tuple_(
            w.string("storage"), kind, w.string(storage.key), w.string("cpu"), w.integer(storage.count)
        )
        sizes = [w.tuple_(*map(w.integer, numbers)) for numbers in (tensor.shape, tensor.strides)]
        view = w.integer(tensor.offset), *sizes, w.CODE["NEWFALSE"], w.call(DICT)  # no gradient, no hooks
        yield w.string(name) + w.call(TENSOR, identity + w.CODE["BINPERSID"], *view)
    yield w.CODE["SETITEMS"] + w.CODE["STOP"]
