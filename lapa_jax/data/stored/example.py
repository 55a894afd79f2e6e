"""Where the values of a serialized tf.train.Example lie, without copying or trusting them.

The wire format is protobuf (https://protobuf.dev/programming-guides/encoding): Example{1: Features},
Features{1: map entry {1: name, 2: Feature}}, Feature{1: bytes, 2: floats, 3: int64s}. The depth is
fixed, so hostile nesting has nothing to recurse into; every length is checked against its message.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

Span = tuple[int, int]
_KINDS = {1: "bytes", 2: "float", 3: "int64"}
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT = 10


class Malformed(ValueError):
    """Bytes that are not a tf.train.Example; the text says what is wrong and where."""


@dataclasses.dataclass
class Feature:
    """One named feature: `kind` is "bytes", "float" or "int64"; `spans` are its list messages."""

    kind: str
    spans: list[Span]


def parse(record: bytes) -> dict[str, Feature]:
    """name -> Feature of every feature in the record.

    Raises:
        Malformed: the bytes are not a tf.train.Example.
    """
    found: dict[str, Feature] = {}
    for number, start, stop in _messages(record, 0, len(record)):
        if number != 1:
            continue
        for entry_number, *entry in _messages(record, start, stop):
            if entry_number == 1:
                _read_entry(record, *entry, found)
    return found


def _read_entry(record: bytes, start: int, stop: int, found: dict[str, Feature]) -> None:
    name, value = "", None
    for number, begin, end in _messages(record, start, stop):
        if number == 1:
            name = _name(record, begin, end)
        elif number == 2:
            value = (begin, end)
    if value is None:
        return
    feature = Feature("", [])
    for number, begin, end in _messages(record, *value):
        kind = _KINDS.get(number)
        if kind is None:
            continue
        if feature.kind != kind:  # of a oneof the last counts
            feature = Feature(kind, [])
        feature.spans.append((begin, end))
    found[name] = feature


def _name(record: bytes, start: int, stop: int) -> str:
    try:
        return record[start:stop].decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed(f"a feature name at byte {start} is not UTF-8") from None


def byte_values(record: bytes, feature: Feature) -> list[Span]:
    """[start, stop) of every value of a bytes feature, in order."""
    _expect(feature, "bytes")
    return [
        (begin, end) for span in feature.spans for number, begin, end in _messages(record, *span) if number == 1
    ]


def floats(record: bytes, feature: Feature) -> np.ndarray:
    """float32[n], a copy."""
    parts = []
    for wire, begin, end in _numbers(record, feature, "float"):
        if wire not in (_LENGTH, _FIXED32) or (end - begin) % 4:
            raise Malformed(f"a float list at byte {begin} has {end - begin} bytes")
        parts.append(record[begin:end])
    return np.frombuffer(b"".join(parts), "<f4").copy()


def ints(record: bytes, feature: Feature) -> np.ndarray:
    """int64[n]."""
    parts = []
    for wire, begin, end in _numbers(record, feature, "int64"):
        if wire not in (_LENGTH, _VARINT):
            raise Malformed(f"an integer list at byte {begin} has wire type {wire}")
        parts.append(record[begin:end])
    return _varints(b"".join(parts))


def _numbers(record: bytes, feature: Feature, kind: str) -> Iterator[tuple[int, int, int]]:
    """(wire type, start, stop) of each number, or packed run of numbers, of a feature."""
    _expect(feature, kind)
    for span in feature.spans:
        yield from ((wire, begin, end) for number, wire, begin, end in fields(record, *span) if number == 1)


def with_ints(record: bytes, name: str, values: np.ndarray) -> bytes:
    """The record with one more feature of int64s; the bytes of all others stay as they are.

    Raises:
        Malformed: not a tf.train.Example, or one that has a feature by this name.
    """
    if name in parse(record):
        raise Malformed(f"there is a feature {name!r} already")
    numbers = b"".join(_encoded(int(value) & (1 << 64) - 1) for value in np.asarray(values).reshape(-1))
    feature = _message(3, _message(1, numbers))
    entry = _message(1, _message(1, name.encode()) + _message(2, feature))
    spans = [span for number, *span in _messages(record, 0, len(record)) if number == 1]
    return _message(1, b"".join(record[start:stop] for start, stop in spans) + entry)


def _message(number: int, body: bytes) -> bytes:
    return bytes([number << 3 | _LENGTH]) + _encoded(len(body)) + body


def _encoded(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _expect(feature: Feature, kind: str) -> None:
    # A list without values has no kind on the wire.
    if feature.spans and feature.kind != kind:
        raise Malformed(f"a feature is stored as {feature.kind} and not as {kind}")


def _varints(data: bytes) -> np.ndarray:
    raw = np.frombuffer(data, np.uint8)
    if not len(raw):
        return np.zeros(0, np.int64)
    last = raw < 0x80
    if not last[-1]:
        raise Malformed("an integer list ends inside a number")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])
    if len(ends) == len(raw):  # one byte each: flags and small numbers
        return raw.astype(np.int64)
    if int((ends - starts).max()) >= _MAX_VARINT:
        raise Malformed("an integer list holds a number of more than 64 bits")
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    shifted = (raw & np.uint8(0x7F)).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(shifted, starts).view(np.int64)


def _messages(record: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, stop) of the length-delimited fields; fields of other types are skipped."""
    for number, wire, begin, end in fields(record, start, stop):
        if wire == _LENGTH:
            yield number, begin, end


def fields(record: bytes, position: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, start, stop) of the fields of the message in [position, stop)."""
    while position < stop:
        at = position
        tag, position = varint(record, position, stop)
        number, wire = tag >> 3, tag & 7
        if not number:
            raise Malformed(f"field number 0 at byte {at}")
        if wire == _LENGTH:
            length, position = varint(record, position, stop)
            end = position + length
        elif wire == _VARINT:
            end = varint(record, position, stop)[1]
        elif wire == _FIXED32:
            end = position + 4
        elif wire == _FIXED64:
            end = position + 8
        else:
            raise Malformed(f"wire type {wire} at byte {at}")
        if end > stop:
            raise Malformed(f"a field at byte {at} ends at {end}, past the end of its message at {stop}")
        yield number, wire, position, end
        position = end


def varint(record: bytes, position: int, stop: int) -> tuple[int, int]:
    if position < stop and record[position] < 0x80:
        return record[position], position + 1
    value = shift = 0
    for at in range(position, min(stop, position + _MAX_VARINT)):
        byte = record[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
    raise Malformed(f"a number at byte {position} does not end")
