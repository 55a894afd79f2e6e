"""Records of both formats by position, and shards that are cut, flipped or no shards at all."""

import struct

import hypothesis
import pytest
from array_record.python import array_record_module
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data.stored import records

BLOCK = 1 << 16
SIZES = st.sampled_from([0, 1, 7, 100, 5000, BLOCK - 25, BLOCK - 24, BLOCK - 23, BLOCK, 3 * BLOCK + 11])
FUNCTION_FIXTURE = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)


def tfrecord(rows):
    framed = []
    for row in rows:
        length = struct.pack("<Q", len(row))
        framed += [
            length,
            struct.pack("<I", records.masked_crc(length)),
            row,
            struct.pack("<I", records.masked_crc(row)),
        ]
    return b"".join(framed)


def array_record(path, rows, options):
    writer = array_record_module.ArrayRecordWriter(str(path), options)
    for row in rows:
        writer.write(row)
    writer.close()


def noise(size, seed):
    import random

    return random.Random(seed).randbytes(size)


@FUNCTION_FIXTURE
@hypothesis.given(st.lists(SIZES, max_size=12), st.sampled_from(["tfrecord", "plain", "compressed"]), st.data())
def test_any_part_of_any_record_is_read_by_position(tmp_path, sizes, form, data):
    rows = [noise(size, seed) for seed, size in enumerate(sizes)]
    path = tmp_path / "shard"
    records.forget()
    if form == "tfrecord":
        path.write_bytes(tfrecord(rows))
    else:
        array_record(path, rows, "group_size:1" + (",uncompressed" if form == "plain" else ""))
    found = list(records.scan(str(path), "tfrecord" if form == "tfrecord" else "array_record"))
    assert [record.data for record in found] == rows
    layouts = {"tfrecord": {records.FLAT}, "plain": {records.BLOCKS}, "compressed": {records.WHOLE}}
    assert {record.layout for record in found} <= layouts[form]
    for number, (record, row) in enumerate(zip(found, rows, strict=True)):
        start = data.draw(st.integers(0, len(row)))
        length = data.draw(st.integers(0, len(row) - start))
        offset = {
            records.FLAT: record.offset + start,
            records.WHOLE: start,
            records.BLOCKS: records.position_in(record.offset, start),
        }[record.layout]
        assert records.read(str(path), record.layout, number, offset, length) == row[start : start + length]


@FUNCTION_FIXTURE
@hypothesis.given(st.data())
def test_a_damaged_tfrecord_gives_right_records_or_says_where_it_is_damaged(tmp_path, data):
    rows = [noise(size, size) for size in (10, 0, 300, 40)]
    whole = tfrecord(rows)
    damaged = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    path = tmp_path / "shard"
    path.write_bytes(damaged)
    records.forget()
    good, bad = [], 0
    try:
        for record in records.scan(str(path), "tfrecord"):
            good += [record.data] if record.data is not None else []
            bad += record.data is None
    except records.Ended as ended:
        bad += 1
        assert 0 <= ended.offset <= len(damaged)
    assert all(record in rows for record in good)  # never a record that was not written
    cut_between = damaged in [tfrecord(rows[:i]) for i in range(5)]
    assert bad or cut_between


def test_a_huge_length_is_refused_without_reading_it(tmp_path):
    length = struct.pack("<Q", 1 << 62)
    (tmp_path / "shard").write_bytes(length + struct.pack("<I", records.masked_crc(length)) + b"abc")
    with pytest.raises(records.Ended, match="ends inside a record of 4611686018427387904 bytes"):
        list(records.scan(str(tmp_path / "shard"), "tfrecord"))


@pytest.mark.parametrize("options", ["group_size:1", "group_size:1,uncompressed"])
def test_a_damaged_array_record_is_noticed(tmp_path, options):
    rows = [noise(5000, seed) for seed in range(8)]
    path = tmp_path / "shard"
    array_record(path, rows, options)
    whole = path.read_bytes()
    for position in range(30, 45_000, 997):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 255]) + whole[position + 1 :])
        records.forget()
        try:
            found = [record.data for record in records.scan(str(path), "array_record")]
        except records.Ended:
            continue
        assert all(data is None or data in rows for data in found)
    path.write_bytes(b"not an array record" * 9000)
    records.forget()
    with pytest.raises(records.Ended):
        list(records.scan(str(path), "array_record"))


def test_other_formats_are_named(tmp_path):
    with pytest.raises(errors.UserError, match="'riegeli' is not read here"):
        records.scan(str(tmp_path / "x"), "riegeli")
