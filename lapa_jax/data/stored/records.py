"""Where the records of TFRecord and ArrayRecord shards lie, and reading parts of them by position.

TFRecord: uint64 length, crc of it, the record, crc of it. ArrayRecord is Riegeli
(https://github.com/google/riegeli, doc/riegeli_records_file_format.md): a record written uncompressed
lies in the file as it is, but for a 24-byte header at every 64 KiB; a compressed one must be read whole.
"""

import dataclasses
import functools
import os
import struct
from collections.abc import Iterator

import google_crc32c
from array_record.python import array_record_module

from lapa_jax import errors
from lapa_jax.data.stored import storage

FLAT, BLOCKS, WHOLE = 0, 1, 2
"""Layouts: bytes as they are; bytes between block headers; records to be read as a whole."""

_BLOCK, _BLOCK_HEADER, _CHUNK_HEADER = 1 << 16, 24, 40
_AHEAD = 1 << 23  # bytes a sequential reader asks for
_READERS = 32  # ArrayRecord readers and whole records kept, a process
_MAX_RECORD = 1 << 34
_SIGNATURE = bytes.fromhex(  # the 64 bytes that every Riegeli file begins with
    "83af70d10d884a3f00000000000000004000000000000000"
    "91bac23c9287e1a90000000000000000e19f13c0e9b1c3727300000000000000"
    "0000000000000000"
)


@dataclasses.dataclass(frozen=True)
class Record:
    """One record of a shard.

    Attributes:
        offset: of its first byte in the file; its number in the shard for the layout WHOLE.
        data: its bytes; None where they are damaged, and `damage` says how.
    """

    offset: int
    layout: int
    data: bytes | None
    damage: str = ""


class Ended(Exception):
    """The rest of a shard cannot be read: no later record can be found."""

    def __init__(self, offset: int, reason: str):
        super().__init__(f"byte {offset}: {reason}")
        self.offset, self.reason = offset, reason


def scan(path: str, file_format: str) -> Iterator[Record]:
    """Every record of a shard in order, checksums verified; a damaged one has no data.

    Raises:
        Ended: what follows cannot be found (a damaged length, a file cut short).
        UserError: the format is not known.
    """
    readers = {"tfrecord": _tfrecords, "array_record": _array_records}
    if file_format not in readers:
        raise errors.UserError(
            f"{path}: file format {file_format!r} is not read here; rebuild it as array_record or tfrecord"
        )
    return readers[file_format](path)


def read(path: str, layout: int, place: int, offset: int, length: int) -> bytes:
    """`length` bytes of a record.

    Args:
        layout: of the shard.
        place: the record's number in the shard; read for the layout WHOLE only.
        offset: in the file for FLAT and BLOCKS, in the record for WHOLE.
    """
    if layout == FLAT:
        return storage.read(path, offset, length)
    if layout == BLOCKS:
        return _without_headers(storage.read(path, offset, advance(offset, length) - offset), offset)
    return _whole(path, place, os.getpid())[offset : offset + length]


def advance(offset: int, length: int) -> int:
    """Where a Riegeli file is after `length` bytes of payload from `offset`."""
    if offset % _BLOCK < _BLOCK_HEADER and length:
        offset += _BLOCK_HEADER - offset % _BLOCK
    room = _BLOCK - offset % _BLOCK
    if length <= room:
        return offset + length
    usable = _BLOCK - _BLOCK_HEADER
    more = -(-(length - room) // usable)
    return offset + length + more * _BLOCK_HEADER


def position_in(offset: int, length: int) -> int:
    """As `advance`, but never just before a block header: where the next payload byte lies."""
    end = advance(offset, length)
    return end + _BLOCK_HEADER - end % _BLOCK if end % _BLOCK < _BLOCK_HEADER else end


def _without_headers(data: bytes, offset: int) -> bytes:
    first = (-offset) % _BLOCK
    if first >= len(data) and offset % _BLOCK >= _BLOCK_HEADER:
        return data
    parts, position = [], 0
    while position < len(data):
        within = (offset + position) % _BLOCK
        if within < _BLOCK_HEADER:
            position += _BLOCK_HEADER - within
            continue
        parts.append(data[position : position + _BLOCK - within])
        position += _BLOCK - within
    return b"".join(parts)


def masked_crc(data: bytes) -> int:
    """CRC-32C as TFRecord stores it: rotated by 15 bits, plus a constant."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class _Sequential:
    """Forward reads of a file in large pieces."""

    def __init__(self, path: str):
        self._path, self.size = path, storage.size_of(path)
        self._start, self._data = 0, b""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""
        if not self._start <= offset <= offset + length <= self._start + len(self._data):
            wanted = min(max(length, _AHEAD), max(self.size - offset, 0))
            self._start, self._data = offset, storage.read(self._path, offset, wanted)
        return self._data[offset - self._start : offset - self._start + length]


def _tfrecords(path: str) -> Iterator[Record]:
    file, offset = _Sequential(path), 0
    while offset < file.size:
        header = file.read(offset, 12)
        if len(header) < 12:
            raise Ended(offset, "the file ends inside a record's length")
        length, length_crc = struct.unpack("<QI", header)
        if masked_crc(header[:8]) != length_crc:
            raise Ended(offset, "the checksum of a record's length is wrong")
        if length > min(file.size - offset - 16, _MAX_RECORD):
            raise Ended(offset, f"the file ends inside a record of {length} bytes")
        body = file.read(offset + 12, length + 4)
        data, (crc,) = body[:-4], struct.unpack("<I", body[-4:])
        good = masked_crc(data) == crc
        yield Record(offset + 12, FLAT, data if good else None, "" if good else "the checksum of a record is wrong")
        offset += length + 16


def _array_records(path: str) -> Iterator[Record]:
    if storage.read(path, 0, len(_SIGNATURE)) != _SIGNATURE:
        raise Ended(0, "not an ArrayRecord file")
    reader = _reader(path)
    count, places = reader.num_records(), _uncompressed(path)
    places = places if len(places) == count else []
    for number in range(count):
        try:
            data = reader.read([number])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            yield Record(number, WHOLE, None, f"record {number}: {' '.join(str(error).split())[:120]}")
            continue
        if places and records_match(path, places[number], data):
            yield Record(places[number], BLOCKS, data)
        else:
            yield Record(number, WHOLE, data)


def records_match(path: str, offset: int, data: bytes) -> bool:
    return read(path, BLOCKS, 0, offset, len(data)) == data


def _uncompressed(path: str) -> list[int]:
    """Offset of each record of a shard written as "group_size:1,uncompressed"; [] of any other."""
    file, position, found = _Sequential(path), 0, []
    while True:
        header = _payload(file, position, _CHUNK_HEADER)
        if len(header) < _CHUNK_HEADER:
            return found
        size, kind_and_count = struct.unpack("<8xQ8xQ8x", header)
        kind, count = kind_and_count & 0xFF, kind_and_count >> 8
        begin = position_in(position, _CHUNK_HEADER)
        if kind == ord("r") and count == 1:
            start = _start_of_value(_payload(file, begin, min(size, 24)))
            if start is None:
                return []
            found.append(position_in(begin, start))
        elif kind == ord("r"):
            return found  # the footer: one chunk with a summary of each group
        position = position_in(begin, size) if size else begin


def _start_of_value(data: bytes) -> int | None:
    """Bytes before the value in an uncompressed simple chunk of one record; None if compressed."""
    if not data or data[0] != 0:
        return None
    sizes, position = 0, 1
    for shift in range(0, 70, 7):
        if position >= len(data):
            return None
        byte = data[position]
        sizes |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return position + sizes
    return None


def _payload(file: _Sequential, offset: int, length: int) -> bytes:
    return _without_headers(file.read(offset, advance(offset, length) - offset), offset)


def _reader(path: str) -> array_record_module.ArrayRecordReader:
    try:
        return array_record_module.ArrayRecordReader(path)
    except (RuntimeError, ValueError) as error:
        raise Ended(0, f"not an ArrayRecord file: {' '.join(str(error).split())[:120]}") from None


@functools.lru_cache(maxsize=_READERS)
def _kept_reader(path: str, process: int) -> array_record_module.ArrayRecordReader:
    del process
    return _reader(path)


@functools.lru_cache(maxsize=_READERS)
def _whole(path: str, number: int, process: int) -> bytes:
    """A whole record; both frames of a pair come from the same one."""
    return _kept_reader(path, process).read([number])[0]


def forget() -> None:
    """Drop what was kept of files that are gone."""
    _whole.cache_clear()
    _kept_reader.cache_clear()
    storage.forget()
