"""The pickle of a state dict as data: nothing in it runs, whatever it holds, and reading it is bounded."""

import collections
import contextlib
import io
import pickle

import hypothesis
import numpy as np
import pytest
from hostile_pickles import CODES, DAMAGED, DICT, GREEDY, HAND_MADE, TENSOR, attack, bounded, program, quiet
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.convert import torch_pickle


def tensor(key="0", shape=(2, 3), kind="FloatStorage"):
    size = int(np.prod(shape))
    strides = tuple(int(np.prod(shape[i + 1 :])) for i in range(len(shape)))
    return torch_pickle.Tensor(torch_pickle.Storage(kind, key, size), 0, shape, strides)


GOOD = torch_pickle.dumps({"a.weight": tensor("0"), "a.bias": tensor("1", ()), "b": tensor("2", (16, 0, 64))})


def described(state):
    return {name: (*vars(t.storage).values(), t.offset, t.shape, t.strides) for name, t in state.items()}


def test_round_trip():
    with quiet():
        state = torch_pickle.loads(GOOD, "x.pt")
    assert described(state) == {
        "a.weight": ("FloatStorage", "0", 6, 0, (2, 3), (3, 1)),
        "a.bias": ("FloatStorage", "1", 1, 0, (), ()),
        "b": ("FloatStorage", "2", 0, 0, (16, 0, 64), (0, 64, 1)),
    }


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", attack(""))
def test_a_hostile_pickle_never_executes(name, protocol, tmp_path):
    canary = tmp_path / "canary"
    data = pickle.dumps(attack(str(canary))[name], protocol)
    with quiet(), pytest.raises(errors.UserError, match="nothing of it was executed") as caught:
        torch_pickle.loads(data, "laq.pt")
    assert "laq.pt" in str(caught.value) and "\n" not in str(caught.value)
    assert not canary.exists()
    with contextlib.suppress(Exception):
        pickle.loads(data)
    assert canary.exists()  # so the attack was one


@pytest.mark.parametrize("name", HAND_MADE)
def test_what_torch_does_not_write_is_refused(name):
    with quiet(), pytest.raises(errors.UserError, match=r"^laq\.pt: .*nothing of it was executed"):
        torch_pickle.loads(HAND_MADE[name], "laq.pt")


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(name):
    with quiet(), pytest.raises(errors.UserError, match=r"^laq\.pt: ") as caught:
        torch_pickle.loads(DAMAGED[name], "laq.pt")
    assert str(caught.value).isascii() and len(str(caught.value)) < 400 and "\n" not in str(caught.value)


def test_the_refused_name_is_told():
    with pytest.raises(errors.UserError, match="argparse.Namespace"):
        torch_pickle.loads(program(b"cargparse\nNamespace\n"), "laq.pt")
    with pytest.raises(errors.UserError, match=r"x{50,80}\.\.\."):
        torch_pickle.loads(program(b"cos\n" + b"x" * 10_000 + b"\n"), "laq.pt")


def test_too_long_is_refused_unread():
    with pytest.raises(errors.UserError, match=str(torch_pickle.MAX_BYTES)):
        torch_pickle.loads(b"." * (torch_pickle.MAX_BYTES + 1), "laq.pt")


@pytest.mark.parametrize("name", GREEDY)
def test_memory_is_bounded(name):
    with bounded(200 * len(GREEDY[name])), contextlib.suppress(errors.UserError), quiet():
        torch_pickle.loads(GREEDY[name], "laq.pt")


def loads_or_refuses(data: bytes) -> None:
    with contextlib.suppress(errors.UserError), quiet():
        torch_pickle.loads(data, "laq.pt")


PIECES = st.one_of(
    st.sampled_from(CODES),
    st.sampled_from([b"cos\nsystem\n", DICT, TENSOR, b"h\0", b"q\0"]),
    st.binary(max_size=3),
)


@hypothesis.given(st.lists(PIECES, max_size=30))
@hypothesis.settings(max_examples=400)
def test_any_program_is_read_or_refused(pieces):
    loads_or_refuses(program(*pieces))


@hypothesis.given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=4))
@hypothesis.settings(max_examples=400)
def test_any_change_is_read_or_refused(changes):
    data = bytearray(GOOD)
    for place, value in changes:
        data[place] = value
    loads_or_refuses(bytes(data))


def test_our_own_pickles_are_such_as_python_reads():
    """Names and sizes as the standard library sees them, the globals replaced."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            return collections.OrderedDict if name == "OrderedDict" else lambda *args: args

        def persistent_load(self, identity):
            return identity[2:]

    state = Unpickler(io.BytesIO(GOOD)).load()
    assert {k: (v[0], v[1], v[2]) for k, v in state.items()} == {
        "a.weight": (("0", "cpu", 6), 0, (2, 3)),
        "a.bias": (("1", "cpu", 1), 0, ()),
        "b": (("2", "cpu", 0), 0, (16, 0, 64)),
    }
