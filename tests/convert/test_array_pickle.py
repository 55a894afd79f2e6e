"""Pickles of arrays as data: all that Flax models are pickled as is read, nothing in it runs; and back."""

import contextlib
import pickle
import pickletools

import hostile_pickles
import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hostile_pickles import CODES, Call, attack, bounded, filled, program, quiet, text
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.convert import array_pickle

ARRAYS = {
    "matrix": np.arange(6, dtype=np.float32).reshape(2, 3),
    "columns first": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "strided": np.arange(12, dtype=np.int32)[::3],
    "number": np.full((), 2.5, np.float16),
    "nothing": np.zeros((0, 3), np.float32),
    "big-endian": np.arange(3, dtype=">i8"),
    "truth": np.array([True, False]),
    "complex": np.array([1 + 2j]),
    "bfloat16": np.arange(3).astype(ml_dtypes.bfloat16),
}
TREE = {"encoder": {"conv_in": {"kernel": ARRAYS["matrix"], "bias": ARRAYS["columns first"]}}, "b": np.ones(3)}


def equal(tree, other):
    if isinstance(tree, dict):
        return list(tree) == list(other) and all(equal(tree[key], other[key]) for key in tree)
    return tree.dtype == other.dtype and tree.shape == other.shape and tree.tobytes() == other.tobytes()


def loads(data):
    with quiet():
        return array_pickle.loads(data, "vqgan")


@pytest.mark.parametrize("protocol", (3, 4, 5))
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_as_numpy_pickles_them(name, protocol):
    (found,) = loads(pickle.dumps({"x": ARRAYS[name]}, protocol)).values()
    assert equal(found, ARRAYS[name])
    assert not found.flags.writeable


@pytest.mark.parametrize("protocol", (3, 4, 5))
def test_nested_dicts(protocol):
    assert equal(loads(pickle.dumps(TREE, protocol)), TREE)


@pytest.mark.parametrize("protocol", (3, 4, 5))
def test_jax_arrays_and_frozen_dicts(protocol):
    """As this jax and this flax pickle them; the recorded files are of the official versions."""
    import flax.core
    import jax.numpy as jnp

    tree = flax.core.freeze({"a": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "b": jnp.ones(2, jnp.bfloat16)})
    expected = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(2, ml_dtypes.bfloat16)}
    assert equal(loads(pickle.dumps(tree, protocol)), expected)


@pytest.mark.parametrize("flavour", ["dict_numpy", "dict_jax", "frozendict_numpy", "frozendict_jax"])
def test_the_official_flavours(flavour, shared, tmp_path):
    folder = shared / "gold" / "vqgan"
    with quiet_but_open():
        tree = array_pickle.read(folder / "pickle_flavours" / flavour)
    with np.load(folder / "tiny_variant.npz") as arrays:
        for module in ("quant_conv", "post_quant_conv"):
            for name in ("kernel", "bias"):
                np.testing.assert_array_equal(tree[module][name], arrays[f"p/{module}/{name}"])
        np.testing.assert_array_equal(tree["quantize"]["embeddings"], arrays["p/quantize/embeddings"])
    assert sum(map(len, tree.values())) == 5
    array_pickle.write(tmp_path / "back", tree)
    assert equal(pickle.loads((tmp_path / "back").read_bytes()), tree)


@contextlib.contextmanager
def quiet_but_open():
    """The reader has to open its file; nothing more."""
    rest = tuple(event for event in hostile_pickles.WATCHED if event not in ("open", "os."))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hostile_pickles, "WATCHED", rest)
        with quiet():
            yield


def test_what_is_written_python_reads(tmp_path):
    others = ("bfloat16", "big-endian")  # the one is refused, the other comes back as numpy makes it
    tree = {"deep": TREE} | {name: array for name, array in ARRAYS.items() if name not in others}
    array_pickle.write(tmp_path / "x", tree)
    data = (tmp_path / "x").read_bytes()
    assert equal(pickle.loads(data), tree)
    assert equal(array_pickle.read(tmp_path / "x"), tree)
    array_pickle.write(tmp_path / "y", tree)
    assert (tmp_path / "y").read_bytes() == data
    names = {argument for op, argument, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    assert names == {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}  # numpy 1 has these


def test_nothing_is_overwritten_or_left_half_written(tmp_path):
    (tmp_path / "x").write_text("mine")
    with pytest.raises(errors.UserError, match="x exists"):
        array_pickle.write(tmp_path / "x", TREE)
    with pytest.raises(errors.UserError, match="/b/c is bfloat16"):
        array_pickle.write(tmp_path / "y", {"a": TREE, "b": {"c": ARRAYS["bfloat16"]}})
    with pytest.raises(errors.UserError, match="cannot write"):
        array_pickle.write(tmp_path / "nowhere" / "x", TREE)
    assert [path.name for path in tmp_path.iterdir()] == ["x"] and (tmp_path / "x").read_text() == "mine"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", attack(""))
def test_a_hostile_pickle_never_executes(name, protocol, tmp_path):
    canary = tmp_path / "canary"
    data = pickle.dumps(attack(str(canary))[name], protocol)
    with quiet(), pytest.raises(errors.UserError, match="nothing of it was executed") as caught:
        array_pickle.loads(data, "vqgan")
    assert str(caught.value).startswith("vqgan: ") and "\n" not in str(caught.value)
    (tmp_path / "vqgan").write_bytes(data)
    with pytest.raises(errors.UserError):
        array_pickle.read(tmp_path / "vqgan")
    assert not canary.exists()
    with contextlib.suppress(Exception):
        pickle.loads(data)
    assert canary.exists()  # so the attack was one


@pytest.mark.parametrize("protocol", (3, 4, 5))
def test_a_call_hidden_where_an_array_should_be(protocol, tmp_path):
    import os

    canary = tmp_path / "canary"
    command = Call(os.system, f"touch {canary}")
    for tree in ({"a": {"kernel": np.array([command], object)}}, {**TREE, "c": command}):
        with pytest.raises(errors.UserError, match="nothing of it was executed"):
            loads(pickle.dumps(tree, protocol))
    assert not canary.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
JAX = b"cjax._src.array\n_reconstruct_array\n"
BLANK = RECONSTRUCT + b"(" + NDARRAY + b"K\0\x85C\1btR"
"""An array without contents on the stack."""
F4 = b"cnumpy\ndtype\n(" + text(b"f4") + b"\x89\x88tR"


def state(shape=b"K\1\x85", dtype=F4, order=b"\x89", data=b"C\4abcd"):
    return b"(K\1" + shape + dtype + order + data + b"tb"


def tree(*steps):
    return program(b"}" + text(b"a"), *steps, b"s")


REFUSED = {
    "system": tree(b"cos\nsystem\n"),
    "other name of numpy": tree(b"cnumpy.core.multiarray\nscalar\n"),
    "load": tree(b"cnumpy\nload\n"),
    "name in two strings": tree(b"\x8c\x02os\x8c\x06system\x93"),
    "name of numbers": tree(b"K\1K\2\x93"),
    "opcode of objects": tree(NDARRAY, b")\x81"),
    "persistent id": tree(b"K\1Q"),
    "list": tree(b"]"),
    "text persistent id": program(b"Pstorage\n"),
    "extension": program(b"\x82\x01"),
    "out-of-band buffer": program(b"\x97"),
    "ndarray called": tree(NDARRAY, b")R"),
    "another class reconstructed": tree(RECONSTRUCT, b"(", RECONSTRUCT, b"K\0\x85C\1btR"),
    "reconstructed with a size": tree(RECONSTRUCT, b"(", NDARRAY, b"K\7\x85C\1btR"),
    "dtype of objects": tree(BLANK, state(dtype=F4.replace(b"f4", b"O8"))),
    "dtype of records": tree(BLANK, state(dtype=F4.replace(b"f4", b"V4"))),
    "dtype with fields": tree(F4, b"(K\3", text(b"<"), b"N}NJ\1\0\0\0K\1K\0tb"),
    "dtype that is none": tree(BLANK, state(dtype=F4.replace(b"f4", b"f3"))),
    "dtype that is a function": tree(BLANK, state(dtype=RECONSTRUCT)),
    "dtype set twice": tree(F4, 2 * (b"(K\3" + text(b"<") + b"NNNJ\1\0\0\0K\1K\0tb")),
    "contents given twice": tree(BLANK, state(), state()),
    "shape too large": tree(BLANK, state(b"K\2\x85")),
    "shape beyond memory": tree(BLANK, state(b"K\0\x8a\x09\0\0\0\0\0\0\0\0\1\x86")),
    "shape beyond numpy": tree(BLANK, state(b"K\0J\xff\xff\xff\x7fJ\xff\xff\xff\x7f\x87", data=b"C\0")),
    "negative shape": tree(BLANK, state(b"J\xff\xff\xff\xff\x85")),
    "shape of text": tree(BLANK, state(text(b"1") + b"\x85")),
    "shape that is no tuple": tree(BLANK, state(b"K\1")),
    "too many dimensions": tree(BLANK, state(b"(" + b"K\1" * 17 + b"t")),
    "contents that are text": tree(BLANK, state(data=text(b"abcd"))),
    "state of a dict": tree(b"}}b"),
    "state of a name": tree(NDARRAY, b"}b"),
    "frozen list": tree(b"cflax.core.frozen_dict\nFrozenDict\nK\1\x85R"),
    "jax of another function": tree(JAX, b"(", NDARRAY, b"(", NDARRAY, b"K\0\x85C\1bt(K\1)", F4, b"\x89C\0t}tR"),
    "jax without contents": tree(JAX, b"(", RECONSTRUCT, b"(", NDARRAY, b"K\0\x85C\1btN}tR"),
}
MISPLACED = {
    "array without contents": tree(BLANK),
    "an array alone": program(BLANK, state()),
    "number": tree(b"K\1"),
    "text": tree(text(b"x")),
    "bytes": tree(b"C\1a"),
    "name": tree(NDARRAY),
    "dtype": tree(F4),
    "nothing": tree(b"N"),
    "numbered dict": program(b"}K\1}s"),
    "one dict in two places": program(b"}(" + text(b"a") + b"}q\0" + text(b"b") + b"h\0u"),
    "a dict in itself": program(b"}q\0" + text(b"a") + b"h\0s"),
    "dicts without end": program((b"}" + text(b"a")) * 10_000 + b"}" + b"s" * 10_000),
}
"""What may be said, and is no tree of arrays."""


def test_what_is_good_about_these():
    (found,) = loads(tree(BLANK, state())).values()
    assert found.tobytes() == b"abcd" and found.dtype == np.float32


@pytest.mark.parametrize("name", REFUSED | MISPLACED)
def test_what_no_tree_of_arrays_needs_is_refused(name):
    with quiet(), pytest.raises(errors.UserError, match="^vqgan: ") as caught:
        array_pickle.loads((REFUSED | MISPLACED)[name], "vqgan")
    says = str(caught.value)
    assert says.isascii() and len(says) < 400 and "\n" not in says
    assert "executed" in says or "damaged" in says or name in MISPLACED


def test_the_refused_name_is_told():
    with pytest.raises(errors.UserError, match="argparse.Namespace"):
        loads(program(b"cargparse\nNamespace\n"))


NOT_PICKLES = {
    "empty": (b"", "empty"),
    "torch": (b"PK\3\4", "zip archive, as torch.save writes"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1", "git-lfs pointer"),
    "web page": (b"<!DOCTYPE html>", "web page"),
    "text": (b"hello", "it begins with"),
}


@pytest.mark.parametrize("name", NOT_PICKLES)
def test_other_files_are_named(name, tmp_path):
    data, says = NOT_PICKLES[name]
    (tmp_path / "vqgan").write_bytes(data)
    with pytest.raises(errors.UserError, match=f"vqgan is .*{says}|vqgan is {says}"):
        array_pickle.read(tmp_path / "vqgan")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(errors.UserError, match="cannot read .*nowhere"):
        array_pickle.read(tmp_path / "nowhere")


@pytest.mark.parametrize("share", (0.1, 0.5, 0.9, 0.999))
def test_a_truncated_file_is_named(share, tmp_path):
    data = pickle.dumps({str(i): np.ones(100) for i in range(5)})
    (tmp_path / "vqgan").write_bytes(data[: int(share * len(data))])
    with pytest.raises(errors.UserError, match="vqgan: its pickle is damaged .*copy the file again"):
        array_pickle.read(tmp_path / "vqgan")


GREEDY = {
    "marks": filled(b"("),
    "dicts": filled(b"}"),
    "memo": filled(b"\x94", start=b"\x80\4N"),
    "far memo": filled(b"r\0\0\0\0", start=b"\x80\4N"),
    "doubled tuples": filled(b"q\0h\0\x86", start=b"\x80\4N"),
    "doubled dicts": filled(b"q\0}(X\1\0\0\0ah\0X\1\0\0\0bh\0u", start=b"\x80\4}"),
    "one long shape, many arrays": filled(
        b"h\1" + b"(K\1h\0h\2\x89C\0tb", start=b"\x80\4(" + b"K\1" * 10_000 + b"tq\0" + F4 + b"q\2" + BLANK + b"q\1"
    ),
    "bytes beyond the file": b"\x80\4\x8e\xff\xff\xff\xff\xff\xff\xff\x7f",
    "buffer beyond the file": b"\x80\5\x96\xff\xff\xff\xff\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_bounded(name, tmp_path):
    data = GREEDY[name]
    (tmp_path / "vqgan").write_bytes(data)
    with bounded(200 * len(data) + 50_000):
        with contextlib.suppress(errors.UserError):
            array_pickle.loads(data, "vqgan")
        with contextlib.suppress(errors.UserError):
            array_pickle.read(tmp_path / "vqgan")


def loads_or_refuses(data: bytes) -> None:
    with contextlib.suppress(errors.UserError), quiet():
        array_pickle.loads(data, "vqgan")


PIECES = st.one_of(
    st.sampled_from(CODES),
    st.sampled_from([b"cos\nsystem\n", BLANK, F4, RECONSTRUCT, state(), b"h\0", b"q\0", text(b"a")]),
    st.binary(max_size=3),
)


@hypothesis.given(st.lists(PIECES, max_size=30))
@hypothesis.settings(max_examples=400)
def test_any_program_is_read_or_refused(pieces):
    loads_or_refuses(program(*pieces))


GOOD = [pickle.dumps({"a": {"kernel": np.ones((2, 3), np.float32)}, "b": np.zeros(2)}, p) for p in (3, 4, 5)]


@hypothesis.given(
    st.sampled_from(GOOD), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4)
)
@hypothesis.settings(max_examples=600)
def test_any_change_is_read_or_refused(good, changes):
    data = bytearray(good)
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    loads_or_refuses(bytes(data))


@hypothesis.given(st.sampled_from(GOOD), st.floats(0, 1))
@hypothesis.settings(max_examples=100)
def test_any_cut_is_refused(good, share):
    with pytest.raises(errors.UserError, match="damaged"):
        loads(good[: int(share * (len(good) - 1))])
