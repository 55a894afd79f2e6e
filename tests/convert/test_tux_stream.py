"""Streaming checkpoints of tux: the official files back bit by bit, slices as numpy has them, damage named."""

import io
import pathlib
import tracemalloc

import flax.serialization
import hypothesis
import ml_dtypes
import msgpack
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.convert import mapped, tux_stream
from lapa_jax.convert import msgpack_heads as heads

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "vlm"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")

NUMBERS = np.random.default_rng(0)
LEAVES = {
    "head/kernel": NUMBERS.normal(size=(4, 9)).astype(ml_dtypes.bfloat16),
    "h/norm/kernel": NUMBERS.normal(size=7).astype(np.float32),
    "h/0/kernel": NUMBERS.normal(size=(2, 3, 5)),
    "half": NUMBERS.normal(size=(3, 2)).astype(np.float16),
    "step": np.array(70000, np.int32),
    "none": np.zeros((3, 0), np.float32),
    "flags": np.array([True, False]),
    **{f"u{bits}": np.array([0, 2**bits - 1], f"uint{bits}") for bits in (8, 16, 32, 64)},
    "ü": np.ones((1, 1, 1), np.int8),
}


def same(found, leaves):
    """The same names in the same order, each with the same dtype, shape and bits."""
    found = {name: leaf.view() for name, leaf in found.items()}
    parts = [[(k, v.dtype, v.shape, v.tobytes()) for k, v in each.items()] for each in (found, leaves)]
    return parts[0] == parts[1]


def official(leaves, monkeypatch, chunk_bytes=1 << 30):
    """The bytes that tux makes with flax and msgpack."""
    monkeypatch.setattr(flax.serialization, "MAX_CHUNK_SIZE", chunk_bytes)
    return b"".join(msgpack.packb((key.split("/"), flax.serialization.to_bytes(v))) for key, v in leaves.items())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "params"


@pytest.mark.parametrize("chunk_bytes", [1 << 30, 16, 7])
def test_bytes_are_those_of_flax_and_msgpack(path, monkeypatch, chunk_bytes):
    tux_stream.write(path, LEAVES, chunk_bytes=chunk_bytes)
    assert path.read_bytes() == official(LEAVES, monkeypatch, chunk_bytes)
    found = tux_stream.read(path)
    assert same(found, LEAVES)
    again = path.with_name("again")
    tux_stream.write(again, found, chunk_bytes=chunk_bytes)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("length", [0, 15, 16, 255, 256, 65535, 65536])
def test_lengths_are_packed_as_msgpack_packs_them(length):
    packer = msgpack.Packer(autoreset=False)
    packer.pack_array_header(length)
    packer.pack_map_header(length)
    ours = heads.array(length) + heads.mapping(length) + heads.uint(length) + heads.text("x" * length)
    assert ours == packer.bytes() + msgpack.packb(length) + msgpack.packb("x" * length)
    data = bytes(length)
    assert heads.binary(length) + data == msgpack.packb(data)
    for size in {length, length % 17}:
        assert heads.extension(size, 1) + bytes(size) == msgpack.packb(msgpack.ExtType(1, bytes(size)))


@needs_gold
@pytest.mark.parametrize(
    "name, count, chunk_bytes",
    [
        ("params", 16, 1 << 30), ("params_action_heads_only", 2, 1 << 30), ("tiny_fp32", 16, 1 << 30),
        ("tiny_fp32_chunked", 16, 300), ("tiny_fp32_noscan", 25, 1 << 30), ("tiny_fp32_trainstate", 17, 1 << 30),
    ],
)  # fmt: skip
def test_official_files_come_back_bit_by_bit(name, count, chunk_bytes, path):
    found = tux_stream.read(GOLD / name)
    assert len(found) == count
    tux_stream.write(path, found, chunk_bytes=chunk_bytes)
    assert path.read_bytes() == (GOLD / name).read_bytes()


@needs_gold
@pytest.mark.parametrize("name", ["tiny_fp32", "tiny_fp32_chunked", "trainstate_params::tiny_fp32_trainstate"])
def test_official_values(name):
    flavour, _, file = name.rpartition("::")
    found = tux_stream.read(f"{flavour}::{GOLD / file}" if flavour else GOLD / file)
    recorded = np.load(GOLD / "tiny_fp32.npz")
    wanted = {key.removeprefix("p/"): recorded[key] for key in recorded if key.startswith("p/")}
    assert len(wanted) == 16 and found.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(found[key].view(), value, strict=True)


@needs_gold
def test_two_official_files_in_a_row_are_one(path):
    parts = [GOLD / "params", GOLD / "params_action_heads_only"]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = tux_stream.read(path)
    wanted = {name: leaf.view() for part in parts for name, leaf in tux_stream.read(part).items()}
    assert len(found) == 18 and same(found, wanted)
    path.write_bytes(parts[0].read_bytes() * 2)
    with pytest.raises(errors.UserError, match="delta_head/kernel twice"):
        tux_stream.read(path)


def test_flavours(path):
    leaves = {"params/params/a/b": np.ones(2, np.float32), "opt_state/0": np.zeros(1, np.float32)}
    tux_stream.write(path, leaves)
    assert same(tux_stream.read(f"trainstate::{path}"), leaves)
    assert same(tux_stream.read(f"params::{path}"), leaves)
    assert same(tux_stream.read(f"trainstate_params::{path}"), {"a/b": leaves["params/params/a/b"]})
    with pytest.raises(errors.UserError, match="'flax_params'; choose of params, "):
        tux_stream.read(f"flax_params::{path}")
    plain = path.with_name("plain")
    tux_stream.write(plain, {"a": np.ones(1, np.float32)})
    with pytest.raises(errors.UserError, match="no leaf under params/params/"):
        tux_stream.read(f"trainstate_params::{plain}")


def test_floats_are_cast_and_integers_are_not(path):
    tux_stream.write(path, LEAVES, float_dtype="bfloat16")
    for name, leaf in tux_stream.read(path).items():
        float_ = name in ("head/kernel", "h/norm/kernel", "h/0/kernel", "half", "none")
        assert leaf.dtype == (ml_dtypes.bfloat16 if float_ else LEAVES[name].dtype)
        np.testing.assert_array_equal(leaf.view(), LEAVES[name].astype(leaf.dtype))


def test_any_layout_is_written(path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    leaves = {"t": base.T, "steps": base[:, ::2, ::-1], "big": base.astype(">f4")}
    tux_stream.write(path, leaves)
    for name, leaf in tux_stream.read(path).items():
        np.testing.assert_array_equal(leaf.view(), leaves[name])


def test_views_are_the_file_and_cannot_be_changed(path):
    tux_stream.write(path, LEAVES)
    found = tux_stream.read(path)
    view = found["h/0/kernel"].view()
    assert np.shares_memory(view, found["h/0/kernel"].view()) and not view.flags.writeable
    copy = found["h/0/kernel"].read()
    assert not np.shares_memory(view, copy) and copy.flags.writeable


@hypothesis.given(st.data())
def test_slices_are_those_of_numpy(tmp_path_factory, data):
    """Of arrays in one piece, in chunks whose borders fall anywhere, and of stacks; also in another dtype."""
    shape = tuple(data.draw(st.lists(st.integers(0, 5), max_size=3)))
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(np.float32)
    bounds = st.tuples(st.integers(-6, 6) | st.none(), st.integers(-6, 6) | st.none())
    index = tuple(slice(*data.draw(bounds)) for _ in range(data.draw(st.integers(0, len(shape)))))
    path = tmp_path_factory.mktemp("slices") / "params"
    layers = {str(i): values + i for i in range(3)}
    tux_stream.write(path, layers, chunk_bytes=data.draw(st.sampled_from([4, 12, 20, 1 << 30])))
    found = list(tux_stream.read(path).values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "_BLOCK", data.draw(st.sampled_from([1, 50, 1 << 20])))
        np.testing.assert_array_equal(found[0].read(index), values[index], strict=True)
        np.testing.assert_array_equal(found[0].read(index, np.int16), values[index].astype(np.int16), strict=True)
        stacked, layer = np.stack(list(layers.values())), slice(*data.draw(bounds))
        rows = mapped.Stack(found).read((layer, *index))
        np.testing.assert_array_equal(rows, stacked[layer, *index], strict=True)


def test_what_cannot_be_written(path):
    class Large:
        shape, dtype = (32, 4096, 11008), np.dtype(np.float32)

    with pytest.raises(errors.UserError, match="w1/kernel .32, 4096, 11008. has 5771.* 4 GiB a leaf"):
        tux_stream.write(path, {"w1/kernel": Large()})
    with pytest.raises(errors.UserError, match="name is complex64"):
        tux_stream.write(path, {"name": np.ones(1, np.complex64)})
    with pytest.raises(errors.UserError, match="cannot write"):
        tux_stream.write(path / "nowhere", {})
    assert not list(path.parent.iterdir())
    tux_stream.write(path, {"a": np.ones(1)})
    with pytest.raises(errors.UserError, match="exists"):
        tux_stream.write(path, {"a": np.ones(1)})


def stream(*records):
    return b"".join(msgpack.packb(record) for record in records)


def array(shape=(2,), dtype="float32", data=bytes(8), code=1):
    return msgpack.packb(msgpack.ExtType(code, msgpack.packb((shape, dtype, data))))


def chunked(shape=2, chunks=None, names=("shape", "chunks"), flag=True):
    """A vector of float32 in chunks of one element."""
    chunks = {"0": CHUNK, "1": CHUNK} if chunks is None else chunks
    return msgpack.packb({"__msgpack_chunked_array__": flag, names[0]: {"0": shape}, names[1]: chunks})


KEY = ["h", "kernel"]
CHUNK = msgpack.ExtType(1, msgpack.packb(((1,), "float32", bytes(4))))
INTEGERS = msgpack.ExtType(1, msgpack.packb(((1,), "int32", bytes(4))))
MATRIX = msgpack.ExtType(1, msgpack.packb(((1, 1), "float32", bytes(4))))
HUGE = (0, 2**63, 2**63)
DAMAGED = {
    "dtype": (stream((KEY, array(dtype="float33"))), "h/kernel: dtype 'float33'"),
    "an object": (stream((KEY, array(dtype="object"))), "h/kernel: dtype 'object'"),
    "a structure": (stream((KEY, array(dtype="f4,f4"))), "h/kernel: dtype"),
    "shape": (stream((KEY, array(shape=(3,)))), "h/kernel: 8 bytes for shape .* of float32"),
    "huge shape": (stream((KEY, array(shape=(2**40, 2**40)))), "h/kernel: 8 bytes for shape"),
    "nothing, hugely": (stream((KEY, array(shape=HUGE, data=b""))), "h/kernel: shape .* and 0 elements"),
    "negative": (stream((KEY, array(shape=(-2, -1)))), "h/kernel: byte .* 0xfe"),
    "axes": (stream((KEY, array(shape=(1,) * 33, data=bytes(4)))), "h/kernel: 33 axes"),
    "extension": (stream((KEY, array(code=3))), "h/kernel: extension 3 .* extension 1"),
    "pieces": (stream((KEY, msgpack.packb(msgpack.ExtType(1, msgpack.packb(((2,), "float32")))))), "array of 2"),
    "more in it": (stream((KEY, array() + b"\0")), "h/kernel: 1 bytes too many"),
    "no array": (stream((KEY, msgpack.packb(3))), "h/kernel: uint of 3"),
    "not packed": (stream((KEY, 3)), "h/kernel: uint of 3 .* where bin"),
    "three": (stream((KEY, array(), 1)), "no streaming"),
    "second of three": (stream((KEY, array()), (KEY, array(), 1)), "leaf after h/kernel: array of 3"),
    "no key": (stream(([], array())), "leaf after the beginning: a key of 0 names"),
    "deep key": (stream((["a"] * 40, array())), "a key of 40 names"),
    "empty name": (stream((["a", ""], array())), "a name that is empty"),
    "slash": (stream((["a/b"], array())), "has a slash"),
    "long name": (stream((["a" * 300], array())), "a name of 300 bytes"),
    "no text": (stream(([3], array())), "uint of 3 .* where str belongs"),
    "not UTF-8": (stream((KEY, array())).replace(b"kernel", b"\xff\xfe____"), "not UTF-8"),
    "twice": (stream((KEY, array()), (KEY, array())), "has h/kernel twice"),
    "chunk missing": (stream((KEY, chunked(chunks={"0": CHUNK}))), "h/kernel: shape .* and 1 elements"),
    "no chunks": (stream((KEY, chunked(chunks={}))), "h/kernel: 0 chunks"),
    "chunk order": (stream((KEY, chunked(chunks={"1": CHUNK, "0": CHUNK}))), "'1' at byte .* where 0 belongs"),
    "chunk twice": (stream((KEY, chunked())).replace(b"\xa11", b"\xa10"), "'0' at byte .* where 1 belongs"),
    "other names": (stream((KEY, chunked(names=("form", "chunks")))), "'form' at byte .* where shape belongs"),
    "flag": (stream((KEY, chunked(flag=False))), "0xc2"),
    "chunk of a matrix": (stream((KEY, chunked(1, {"0": MATRIX}))), "not flat"),
    "dtypes mixed": (stream((KEY, chunked(chunks={"0": CHUNK, "1": INTEGERS}))), "2 chunks of 2 dtypes"),
    "bin beyond": (b"\x92\x91\xa1a\xc6\xff\xff\xff\xff" + bytes(20), "a: 4294967295 bytes are announced"),
    "array beyond": (b"\x92\xdd\xff\xff\xff\xff" + bytes(20), "a key of 4294967295 names"),
    "str beyond": (b"\x92\x91\xdb\xff\xff\xff\xff" + bytes(20), "a name of 4294967295 bytes"),
    "map beyond": (stream((KEY, b"\x83\xa0")), "h/kernel"),
    "uint beyond": (b"\x92\xcf\xff", "8 bytes are announced at byte 2 and 1 are there"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damage_is_named(case, path):
    data, message = DAMAGED[case]
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=message) as caught:
        tux_stream.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


OTHERS = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid", "git-lfs"),
    "page": (b"<!DOCTYPE html>", "web page"),
    "pickle": (b"\x80\x04\x95", "a pickle.*not read"),
    "zip": (b"PK\x03\x04" + bytes(30), "zip archive"),
    "whole tree": (msgpack.packb({"params": {}}), "no streaming checkpoint"),
    "text": (b"hello", "no streaming checkpoint"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_files_are_told(case, path):
    data, message = OTHERS[case]
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=message):
        tux_stream.read(path)


def test_files_that_cannot_be_read(path):
    for name in (path, path.parent):
        with pytest.raises(errors.UserError, match=f"cannot read {name}"):
            tux_stream.read(name)


@pytest.fixture(scope="module")
def tiny():
    """A file with every construct and where its records end."""
    target, ends = io.BytesIO(), []
    for i, (name, value) in enumerate(LEAVES.items()):
        tux_stream._put(target, name, value, value.dtype, 16 if i % 2 else 1 << 30)
        ends.append(target.tell())
    return target.getvalue(), ends


def test_cut_off_anywhere(tiny, path):
    data, ends = tiny
    for length in range(1, len(data)):
        path.write_bytes(data[:length])
        if length in ends:
            assert len(tux_stream.read(path)) == ends.index(length) + 1
            continue
        with pytest.raises(errors.UserError, match="params is cut off or damaged: "):
            tux_stream.read(path)


def read_or_refuse(path):
    """Whether the file could be read; anything but a `UserError` is let through."""
    try:
        for leaf in tux_stream.read(path).values():
            assert leaf.view().shape == leaf.read().shape == leaf.shape
    except errors.UserError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return False
    return True


def test_changed_bytes_do_no_harm(tiny, path):
    """Every byte, in several ways: refused in words or read; nothing is allocated that the file does not hold."""
    data, _ = tiny
    outcomes = set()
    tracemalloc.start()
    for position in range(len(data)):
        for value in {data[position] ^ 1, data[position] ^ 0x80, 0, 0xC6, 0xDF}:
            path.write_bytes(data[:position] + bytes([value]) + data[position + 1 :])
            outcomes.add(read_or_refuse(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcomes == {True, False} and peak < 1 << 20


@hypothesis.given(st.binary(max_size=60), st.integers(0, 300))
def test_inserted_bytes_do_no_harm(tmp_path_factory, tiny, extra, position):
    path = tmp_path_factory.mktemp("noise") / "params"
    path.write_bytes(b"\x92" + extra if position == 0 else tiny[0][:position] + extra + tiny[0][position:])
    read_or_refuse(path)
