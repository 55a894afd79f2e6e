"""Pickles read as data, never run: a stack machine that calls nothing.

A pickle is a program. This machine knows the opcodes and the names that its subclass lists, one subclass a kind of
file; what would be a call becomes a description of its result. All else is refused by name.
"""

import dataclasses
import pickletools
from collections.abc import Container
from typing import Any, BinaryIO

from lapa_jax import errors

OPCODES = frozenset(
    "PROTO STOP MARK TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_TUPLE EMPTY_DICT SETITEM SETITEMS NONE NEWTRUE NEWFALSE "
    "BINUNICODE BININT BININT1 BININT2 LONG1 BINPUT LONG_BINPUT BINGET LONG_BINGET GLOBAL REDUCE BUILD".split()
)
"""What every kind of file needs."""
DATA = frozenset(
    "BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE BINUNICODE8 SHORT_BINBYTES BINBYTES "
    "BINBYTES8 BYTEARRAY8".split()
)
"""Opcodes that are a number, a string or bytes."""


class Refused(Exception):
    """Why a pickle is not read; `Machine.read` adds the file."""


@dataclasses.dataclass(frozen=True, eq=False)
class Global:
    """A class or function that is named, "module name", and stays a name."""

    name: str


class Machine:
    """Reads one pickle. Subclasses say what there may be in it, and what it describes.

    Attributes:
        writer: who writes such files, for messages.
        content: what they hold, for messages.
        advice: what to do about a name that is not known, for messages.
        opcodes: that may be used.
        names: "module name" of all that may be referred to.
    """

    writer = content = advice = ""
    opcodes: frozenset[str] = OPCODES
    names: Container[str] = ()

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # stacks set aside by MARK
        self.memo: dict[int, Any] = {}

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        """What calling `name` would make; raises `Refused`."""
        raise self.odd_call(name)

    def build(self, target: Any, state: Any) -> None:
        """Take over `state` into `target`, as its __setstate__ would; raises `Refused`."""
        raise Refused(f"its pickle sets the state of a {kind_of(target)}, which {self.writer} does not write")

    def persistent(self, identity: Any) -> Any:
        """What a persistent id stands for; raises `Refused`."""
        raise Refused(f"its pickle has a persistent id, which {self.writer} does not write")

    def read(self, pickle: bytes | BinaryIO, path: str) -> Any:
        """What the pickle describes. Time and memory are in proportion to its length.

        Args:
            pickle: its bytes, or a file whose `read` never gives more than there is.
            path: of the file, for messages.

        Raises:
            UserError: it is damaged, or wants something that this kind of file does not need.
        """
        try:
            for op, argument, _ in pickletools.genops(pickle):
                self.step(op.name, argument)
            return self.pop(object)
        except Refused as error:
            raise errors.UserError(f"{path}: {error}; nothing of it was executed") from None
        except (ValueError, IndexError) as error:  # of genops, and of a stack that is too short
            says = f"its pickle is damaged ({in_short(error)}): copy the file again"
            raise errors.UserError(f"{path}: {says}") from None

    def step(self, name: str, argument: Any) -> None:
        """One opcode."""
        if name not in self.opcodes:
            raise Refused(f"its pickle uses the opcode {name}, which no {self.content} of {self.writer} needs")
        match name:
            case name if name in DATA:
                self.stack.append(argument)
            case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
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
                self.of(list, self.stack[-1]).extend(items)
            case "GLOBAL":
                self.stack.append(self.reference(argument))
            case "STACK_GLOBAL":
                attribute, module = self.pop(str), self.pop(str)
                self.stack.append(self.reference(f"{module} {attribute}"))
            case "BINPERSID":
                self.stack.append(self.persistent(self.stack.pop()))
            case "REDUCE":
                arguments = self.pop(tuple)
                self.stack.append(self.call(self.pop(Global).name, arguments))
            case "BUILD":
                state = self.stack.pop()
                self.build(self.stack[-1], state)
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                raise NotImplementedError(f"{type(self).__name__} lists {name}, which no machine knows")

    def of(self, kind: type, value: Any) -> Any:
        """`value`, if it is of that very type."""
        if kind is not object and type(value) is not kind:
            raise Refused(f"its pickle has a {kind_of(value)} where {self.writer} writes a {kind_of(kind)}")
        return value

    def pop(self, kind: type) -> Any:
        return self.of(kind, self.stack.pop())

    def above_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below.pop()
        return items

    def set_items(self, items: list[Any]) -> None:
        target = self.of(dict, self.stack[-1])
        if len(items) % 2:
            raise ValueError("a key without a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, int):
                raise Refused(f"a dict has a key of type {kind_of(key)}")
            if key in target:
                raise Refused(f"a dict has the key {in_short(key)} twice")
            target[key] = value

    def reference(self, name: str) -> Global:
        if name not in self.names:
            shown = in_short(name.replace(" ", "."))
            raise Refused(f"its pickle asks for {shown}, which no {self.content} needs: refused. {self.advice}")
        return Global(name)

    def odd_call(self, name: str) -> Refused:
        """To raise when a known name is called in an unknown way."""
        return Refused(f"{name.replace(' ', '.')} is called with arguments that {self.writer} does not write")


def kind_of(value: Any) -> str:
    """What a value, or a type, is called in messages."""
    kind = value if isinstance(value, type) else type(value)
    return {Global: "class or function"}.get(kind, kind.__name__.strip("_").lower())


def in_short(value: object, length: int = 80) -> str:
    """`value` as ASCII in one line of bounded length; of a container only what it is."""
    text = ascii(value) if isinstance(value, str | int | float) else str(value)
    text = ascii(text)[1:-1] if not text.isascii() or not text.isprintable() else text
    return text if len(text) <= length else text[: length - 3] + "..."
