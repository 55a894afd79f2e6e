"""Heads of msgpack values: what a value is and how long, told without touching what it holds; read and written.

The msgpack library loads what it parses. Checkpoints are larger than memory, so only heads are read here, and no
length is believed before it is compared with the bytes that are there.
"""

import dataclasses

FIXED = ((0x80, "uint", 0x7F), (0x90, "map", 0x0F), (0xA0, "array", 0x0F), (0xC0, "str", 0x1F))
"""(bytes below this, kind, mask of the length) where the first byte says both."""

SIZED = {
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xCC: ("uint", 1), 0xCD: ("uint", 2), 0xCE: ("uint", 4), 0xCF: ("uint", 8), 0xD9: ("str", 1), 0xDA: ("str", 2),
    0xDB: ("str", 4), 0xDC: ("array", 2), 0xDD: ("array", 4), 0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
"""First byte -> (kind, bytes of the length that follows)."""

CONSTANT = {0xC3: ("true", 1), **{0xD4 + i: ("ext", 1 << i) for i in range(5)}}
"""First byte -> (kind, length) that it stands for."""


class Malformed(ValueError):
    """Bytes that are not what they should be; the text says what was found where."""


@dataclasses.dataclass
class Cursor:
    """A place in `data` that moves towards `stop`; nothing is taken from beyond."""

    data: memoryview
    position: int
    stop: int

    def skip(self, count: int) -> int:
        """Move over so many bytes; returns where they begin."""
        begin = self.position
        if count > self.stop - begin:
            raise Malformed(f"{count} bytes are announced at byte {begin} and {self.stop - begin} are there")
        self.position += count
        return begin

    def head(self) -> tuple[str, int]:
        """(kind, length) of the next value: bytes, or entries of array and map; of uint the number itself."""
        first = self.data[self.skip(1)]
        for below, kind, mask in FIXED:
            if first < below:
                return kind, first & mask
        if first in SIZED:
            kind, count = SIZED[first]
            return kind, int.from_bytes(self.take(count), "big")
        if first in CONSTANT:
            return CONSTANT[first]
        raise Malformed(f"byte {self.position - 1} is 0x{first:02x}, which begins nothing that belongs there")

    def expect(self, kind: str, length: int | None = None) -> int:
        """The length of the next value, which is of that kind (and length)."""
        at = self.position
        found, size = self.head()
        if found != kind or length not in (None, size):
            wanted = kind if length is None else f"{kind} of {length}"
            raise Malformed(f"{found} of {size} at byte {at} where {wanted} belongs")
        return size

    def take(self, count: int) -> bytes:
        begin = self.skip(count)
        return bytes(self.data[begin : begin + count])

    def text(self, longest: int = 256) -> str:
        at, length = self.position, self.expect("str")
        if length > longest:
            raise Malformed(f"a name of {length} bytes at byte {at}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise Malformed(f"the name at byte {at} is not UTF-8") from None

    def inside(self, kind: str, code: int | None = None) -> "Cursor":
        """A cursor over what the next bin or ext (of that code) holds; this one moves past it."""
        length = self.expect(kind)
        at = self.skip(code is not None)
        if code is not None and self.data[at] != code:
            raise Malformed(f"extension {self.data[at]} at byte {at} where extension {code} belongs")
        begin = self.skip(length)
        return Cursor(self.data, begin, begin + length)

    def end(self) -> None:
        """Nothing is left."""
        if self.position != self.stop:
            raise Malformed(f"{self.stop - self.position} bytes too many at byte {self.position}")


def uint(value: int) -> bytes:
    return bytes([value]) if value < 0x80 else _sized("uint", value)


def text(value: str) -> bytes:
    data = value.encode()
    return _short("str", len(data), 0xA0, 32) + data


def array(length: int) -> bytes:
    return _short("array", length, 0x90, 16)


def mapping(length: int) -> bytes:
    return _short("map", length, 0x80, 16)


def binary(length: int) -> bytes:
    return _sized("bin", length)


def extension(length: int, code: int) -> bytes:
    fixed = [first for first, entry in CONSTANT.items() if entry == ("ext", length)]
    return (bytes(fixed) or _sized("ext", length)) + bytes([code])


TRUE = b"\xc3"


def _short(kind: str, length: int, first: int, below: int) -> bytes:
    return bytes([first + length]) if length < below else _sized(kind, length)


def _sized(kind: str, length: int) -> bytes:
    """In the fewest bytes.

    Raises:
        OverflowError: more than the format can say.
    """
    for first, (of, count) in SIZED.items():
        if of == kind and length < 1 << 8 * count:
            return bytes([first]) + length.to_bytes(count, "big")
    raise OverflowError(f"{kind} of {length}")
