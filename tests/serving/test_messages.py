"""The codec: openpi's bytes, arrays as they were, and whatever else may arrive."""

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

messages = pytest.importorskip("lapa_client.messages", reason="the client is not installed (extra [serve])")

TYPES = ("bool", "uint8", "int8", "int16", "uint16", "int32", "int64", "uint64", "float16", "float32", "<f8", ">i4")
RECORDED = [  # packb of openpi-client 0.1.2 gave these
    (
        {"image": np.arange(6, dtype=np.uint8).reshape(1, 2, 3), "prompt": "hi"},
        b"\x82\xa5image\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x06\x00\x01\x02\x03\x04\x05\xc4\x05dtype\xa3|u1"
        b"\xc4\x05shape\x93\x01\x02\x03\xa6prompt\xa2hi",
    ),
    (
        {"x": np.float32(1.5)},
        b"\x81\xa1x\x83\xc4\r__npgeneric__\xc3\xc4\x04data\xcb?\xf8\x00\x00\x00\x00\x00\x00\xc4\x05dtype\xa3<f4",
    ),
]


@pytest.mark.parametrize("message, data", RECORDED)
def test_bytes_are_those_of_openpi(message, data):
    assert messages.pack(message) == data
    found = messages.unpack(data)
    assert found.keys() == message.keys()
    for name, value in message.items():
        assert type(found[name]) is type(value)
        np.testing.assert_array_equal(found[name], value)


@given(arrays.arrays(st.sampled_from(TYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))
def test_arrays_come_back_as_they_were(array):
    found = messages.unpack(messages.pack({"a": [array]}))["a"][0]
    assert found.dtype == array.dtype and found.shape == array.shape and found.tobytes() == array.tobytes()
    assert not found.flags.writeable or not array.size


NUMBERS = st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
SIMPLE = st.recursive(
    st.none() | NUMBERS | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(SIMPLE)
def test_other_values_come_back_as_they_were(value):
    try:
        found = messages.unpack(messages.pack(value))
    except messages.BadMessage as error:
        assert "deep" in str(error)
    else:
        assert found == value


@settings(max_examples=400)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_bad_message(data):
    try:
        messages.unpack(data)
    except messages.BadMessage as error:
        assert str(error) and "\n" not in str(error)


@settings(max_examples=400)
@given(st.data())
def test_a_damaged_message_is_a_message_or_a_bad_message(data):
    whole = {"image": np.zeros((2, 2, 3), np.uint8), "prompt": "push", "state": np.float32(2)}
    good = bytearray(messages.pack(whole))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    try:
        messages.unpack(bytes(good[: data.draw(st.integers(1, len(good)))]))
    except messages.BadMessage as error:
        assert str(error)


FILLED = {b"__ndarray__": True, b"data": b"1234", b"dtype": "<f4", b"shape": [1]}


@pytest.mark.parametrize(
    "found, named",
    [
        (FILLED | {b"dtype": "|O"}, "no type of arrays"),
        (FILLED | {b"dtype": "V4"}, "no type of arrays"),
        (FILLED | {b"dtype": "i4,i4"}, "no type of arrays"),
        (FILLED | {b"dtype": "(100000,100000)f4"}, "no type of arrays"),
        (FILLED | {b"dtype": 7}, "no type of arrays"),
        (FILLED | {b"shape": [2]}, "is 8 bytes, not 4"),
        (FILLED | {b"shape": [2**62, 0]}, "whole numbers"),
        (FILLED | {b"shape": [-1]}, "whole numbers"),
        (FILLED | {b"shape": [1.0]}, "whole numbers"),
        (FILLED | {b"shape": 1}, "a list"),
        (FILLED | {b"shape": [1] * 9}, "at most 8"),
        (FILLED | {b"data": "1234"}, "bytes"),
        ({b"__ndarray__": True}, "no type of arrays"),
        (FILLED | {b"data": b"", b"shape": [2**31 - 1] * 3 + [0]}, "shape"),
        ({b"__npgeneric__": True, b"data": [], b"dtype": "<f4"}, "is a number"),
        ({b"__npgeneric__": True, b"data": 300, b"dtype": "|u1"}, "does not fit"),
        (msgpack.ExtType(4, b"x"), "extension type 4"),
        (msgpack.Timestamp(1), "time stamp"),
        ([[]] * 1000 * 20, "exceeds"),
        ([[[]] * 1000] * 20, "more than 16384 entries"),
        ([[[[[[[[[[1]]]]]]]]]], "nested"),
    ],
)
def test_what_is_wrong_with_a_message_is_named(found, named):
    with pytest.raises(messages.BadMessage, match=named):
        messages.unpack(msgpack.packb({"x": found}))


def test_maps_that_announce_more_than_there_is_take_no_memory():
    """Each of 500 lists claims 2^32 entries, or as many as are allowed."""
    for count in (b"\xff\xff\xff\xff", b"\x00\x00\x04\x00"):
        with pytest.raises(messages.BadMessage):
            messages.unpack((b"\xdd" + count) * 500)


@pytest.mark.parametrize("value", [object(), np.array(["text"]), np.zeros(2, complex), np.array([None])])
def test_what_cannot_be_sent_is_refused_before_it_is_sent(value):
    with pytest.raises(TypeError, match="cannot send"):
        messages.pack({"x": value})
