"""Files of torch.save: arrays as torch has them, both ways; damaged and foreign files are named."""

import contextlib
import copy
import io
import itertools
import pathlib
import pickle
import tarfile
import zipfile

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.convert import torch_pickle, torch_zip

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "laq"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")

NUMBERS = np.random.default_rng(0)
STATE = {
    "matrix": NUMBERS.normal(size=(4, 6)).astype(np.float32),
    "scalar": np.array(3.5, np.float32),
    "nothing": np.zeros((16, 0, 64), np.float32),
    "double": NUMBERS.normal(size=3),
    "half": NUMBERS.normal(size=(2, 3)).astype(np.float16),
    "bfloat16": NUMBERS.normal(size=(5, 3)).astype(ml_dtypes.bfloat16),
    "bool": np.array([True, False]),
    **{f"int{bits}": np.array([-3, 7], f"int{bits}") for bits in (8, 16, 32, 64)},
    "uint8": np.array([0, 255], np.uint8),
    'name with \u2028, " and ü': np.ones(1, np.float32),
}


def same(state, other):
    """The same names in the same order, each with the same dtype, shape and bits."""
    parts = [[(k, v.dtype, v.shape, v.tobytes()) for k, v in each.items()] for each in (state, other)]
    return parts[0] == parts[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "laq.pt"


def archive(path, tensors, records, kind=zipfile.ZIP_STORED, folder="archive", **others):
    """A file with these `Tensor`s, and these bytes under data/."""
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr(f"{folder}/data.pkl", torch_pickle.dumps(tensors))
        for name, data in others.items():
            file.writestr(f"{folder}/{name}", data)
        for key, data in records.items():
            file.writestr(f"{folder}/data/{key}", data)


def tensor(count, offset, shape, strides, kind="FloatStorage"):
    return torch_pickle.Tensor(torch_pickle.Storage(kind, "0", count), offset, shape, strides)


def test_round_trip(path):
    torch_zip.write(path, STATE)
    found = torch_zip.read(path)
    assert same(found, STATE)
    again = path.with_name("again.pt")
    torch_zip.write(again, found)
    assert again.read_bytes() == path.read_bytes()


def test_any_layout_is_written(path):
    base = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    state = {"t": base.T, "steps": base[:, ::2, ::-1], "big": base.astype(">f4")}
    state["wide"] = np.broadcast_to(base[0], (2, 3, 4))
    torch_zip.write(path, state)
    for name, value in torch_zip.read(path).items():
        np.testing.assert_array_equal(value, state[name])
        assert value.dtype.isnative and value.flags.c_contiguous


def test_arrays_are_views_that_nobody_changes(path):
    torch_zip.write(path, STATE)
    assert not any(value.flags.writeable for value in torch_zip.read(path).values() if value.size)
    storage = np.arange(12, dtype=np.float32)
    square = storage.reshape(3, 4)
    cases = {
        "whole": (tensor(12, 0, (3, 4), (4, 1)), square),
        "turned": (tensor(12, 0, (4, 3), (1, 4)), square.T),
        "corner": (tensor(12, 5, (2, 2), (4, 2)), square[1:, 1::2]),
        "one": (tensor(12, 11, (), ()), storage[11]),
        "none": (tensor(12, 12, (0,), (1,)), storage[:0]),
        "far stride of one": (tensor(12, 3, (1, 2), (2**62, 1)), storage[None, 3:5]),
    }
    archive(path, {name: view for name, (view, _) in cases.items()}, {"0": storage.tobytes()})
    found = torch_zip.read(path)
    for name, (_, value) in cases.items():
        np.testing.assert_array_equal(found[name], value, strict=True, err_msg=name)
    assert np.shares_memory(found["whole"], found["corner"])


def test_byte_order_is_heeded(path):
    values = np.array([1.5, -2.0], np.float32)
    archive(path, {"a": tensor(2, 0, (2,), (1,))}, {"0": values.astype(">f4").tobytes()}, byteorder=b"big")
    np.testing.assert_array_equal(torch_zip.read(path)["a"], values)
    small = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    archive(
        path, {"a": tensor(2, 0, (2,), (1,), "BFloat16Storage")}, {"0": small.view(np.uint16).byteswap().tobytes()},
        byteorder=b"big",
    )  # fmt: skip
    np.testing.assert_array_equal(torch_zip.read(path)["a"], small)


WRONG = {
    "storage missing": (dict(records={}), "data/0.*not in the archive"),
    "storage too short": (dict(records={"0": b"\0" * 44}), "44 bytes.*12 x 4"),
    "storage too long": (dict(records={"0": b"\0" * 52}), "52 bytes.*12 x 4"),
    "beyond the end": (dict(view=tensor(12, 1, (3, 4), (4, 1))), "element 12 of a storage of 12"),
    "far beyond": (dict(view=tensor(12, 2**70, (1,), (1,))), "of a storage of 12"),
    "long strides": (dict(view=tensor(12, 0, (2,), (2**70,))), "of a storage of 12"),
    "repeats itself": (dict(view=tensor(12, 0, (2**40,), (0,))), "more than the 12 elements"),
    "nothing, hugely": (dict(view=tensor(12, 0, (0, 2**40, 2**40), (0, 0, 0))), "more than"),
    "byte order": (dict(byteorder=b"middle"), "byteorder.*middle"),
    "compressed": (dict(kind=zipfile.ZIP_DEFLATED), "compressed"),
    "other zip": (dict(folder="a/b"), "no data.pkl"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_named(case, path):
    change, message = WRONG[case]
    change = dict(change)
    view = change.pop("view", tensor(12, 0, (3, 4), (4, 1)))
    archive(path, {"weight": view}, **{"records": {"0": b"\0" * 48}, **change})
    with pytest.raises(errors.UserError, match=message) as caught:
        torch_zip.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_members_that_share_bytes_are_refused(path):
    """Else a small file could hold any number of large storages."""
    archive(path, {"weight": tensor(12, 0, (3, 4), (4, 1))}, {"0": b"\0" * 48, "1": b"\0" * 4800})
    with zipfile.ZipFile(path, "a") as file:
        first = file.getinfo("archive/data/1")
        for i in range(100):
            member = copy.copy(first)
            member.filename = f"archive/data/x{i}"
            file.filelist.append(member)
        file.writestr("archive/last", b"")  # so that the list is written anew
    with pytest.raises(errors.UserError, match="share a name or bytes"):
        torch_zip.read(path)


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as made:
        made.addfile(tarfile.TarInfo("pickle"))
    return file.getvalue()


FOREIGN = {
    "empty": (b"", "empty"),
    "text": (b"hello", "no zip archive"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git-lfs"),
    "page": (b"<!DOCTYPE html>", "web page"),
    "pickle": (pickle.dumps({"a": 1}), "bare pickle"),
    "before 1.6": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"...", "before 1.6"),
    "before 0.4": (tar(), "tar archive"),
    "gzip": (b"\x1f\x8b\x08", "gzip"),
    "beginning of a zip": (b"PK\x03\x04" + b"\0" * 100, "cut off or damaged"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_named(kind, path):
    data, message = FOREIGN[kind]
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=message):
        torch_zip.read(path)


def test_files_that_cannot_be_read_or_written(path, tmp_path):
    with pytest.raises(errors.UserError, match="cannot read .*No such file"):
        torch_zip.read(path)
    with pytest.raises(errors.UserError, match="cannot read .*directory"):
        torch_zip.read(tmp_path)
    with pytest.raises(errors.UserError, match="cannot write .*No such file"):
        torch_zip.write(tmp_path / "none" / "laq.pt", STATE)
    with pytest.raises(errors.UserError, match="phase is complex64"):
        torch_zip.write(path, {"phase": np.zeros(2, np.complex64)})
    torch_zip.write(path, STATE)
    with pytest.raises(errors.UserError, match="exists"):
        torch_zip.write(path, {})
    assert [p.name for p in tmp_path.iterdir()] == ["laq.pt"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(path of a file to overwrite, the bytes of a good one, its state)."""
    path = tmp_path_factory.mktemp("fuzz") / "laq.pt"
    state = {"a.weight": STATE["matrix"], "a.bias": STATE["bfloat16"], "b": STATE["nothing"]}
    torch_zip.write(path, state)
    return path, path.read_bytes(), state


def reads_right_or_refuses(whole, data):
    path, _, state = whole
    path.unlink()
    path.write_bytes(data)
    with contextlib.suppress(errors.UserError):
        assert same(torch_zip.read(path), state)


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=400)
def test_a_damaged_file_is_read_right_or_refused(whole, data):
    """Checksums see to it that no changed byte changes a number."""
    changed = bytearray(whole[1])
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    reads_right_or_refuses(whole, bytes(changed))


@hypothesis.given(st.data())
def test_a_cut_or_stretched_file_is_read_right_or_refused(whole, data):
    good = whole[1]
    place = data.draw(st.integers(0, len(good)))
    inserted = data.draw(st.binary(max_size=8))
    reads_right_or_refuses(whole, good[:place] + inserted + good[place + data.draw(st.integers(0, 8)) :])


def test_a_cut_file_is_never_read(whole):
    path, good, _ = whole
    for length in range(0, len(good), 7):
        path.unlink()
        path.write_bytes(good[:length])
        with pytest.raises(errors.UserError):
            torch_zip.read(path)


@needs_gold
@pytest.mark.parametrize("case", ["seq1", "seq2", "seq4"])
def test_files_of_the_official_code(case):
    with np.load(GOLD / case / "params.npz") as arrays:
        expected = {name: arrays[name] for name in arrays.files}
    found = torch_zip.read(GOLD / case / "vae.0.pt")
    assert same({name: found[name] for name in expected}, expected) and len(found) == len(expected)


def test_a_part_of_a_file(path):
    parts = itertools.product(("ema_model", "online_model"), ("matrix", "half"))
    torch_zip.write(path, {"step": np.array(3)} | {f"{part}.{name}": STATE[name] for part, name in parts})
    assert list(torch_zip.read(path, "ema_model")) == ["matrix", "half"]
    with pytest.raises(errors.UserError, match=r"no part 'emma'.*'ema_model' \(2 entries\)"):
        torch_zip.read(path, "emma")
