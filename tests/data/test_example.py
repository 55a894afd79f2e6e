"""The reader of tf.train.Example against TFDS's own, and against bytes that are no Example."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2

from lapa_jax.data.stored import example

Feature, Features = tf_feature_pb2.Feature, tf_feature_pb2.Features
VALUES = st.one_of(
    st.lists(st.binary(max_size=300), max_size=8).map(lambda v: ("bytes", v)),
    st.lists(st.floats(width=32, allow_nan=False), max_size=40).map(lambda v: ("float", v)),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40).map(lambda v: ("int64", v)),
)
EXAMPLES = st.dictionaries(st.text(max_size=12), VALUES, max_size=6)


def serialize(values):
    lists = {
        "bytes": tf_feature_pb2.BytesList,
        "float": tf_feature_pb2.FloatList,
        "int64": tf_feature_pb2.Int64List,
    }
    features = {k: Feature(**{f"{kind}_list": lists[kind](value=v)}) for k, (kind, v) in values.items()}
    return tf_example_pb2.Example(features=Features(feature=features)).SerializeToString()


def read(record):
    found = {}
    for name, feature in example.parse(record).items():
        if feature.kind == "bytes":
            found[name] = [record[a:b] for a, b in example.byte_values(record, feature)]
        else:
            found[name] = getattr(example, {"float": "floats", "int64": "ints"}[feature.kind])(
                record, feature
            ).tolist()
    return found


@hypothesis.given(EXAMPLES)
def test_values_are_those_that_were_written(values):
    assert read(serialize(values)) == {name: value for name, (_, value) in values.items()}


@hypothesis.given(EXAMPLES, EXAMPLES)
def test_two_examples_in_a_row_are_merged_as_protobuf_merges_them(first, second):
    merged = read(serialize(first) + serialize(second))
    assert merged == {name: value for name, (_, value) in {**first, **second}.items()}


def test_numbers_need_not_be_packed():
    def message(number, body):
        return bytes([number << 3 | 2, len(body)]) + body

    ints = b"\x08\x05" + b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
    floats = b"\x0d" + np.float32(1.5).tobytes() + b"\x0d" + np.float32(-2).tobytes()
    entries = [
        message(1, message(1, b"i") + message(2, message(3, ints))),
        message(1, message(1, b"f") + message(2, message(2, floats))),
    ]
    record = message(1, b"".join(entries))
    assert read(record) == {"i": [5, -1], "f": [1.5, -2.0]}
    parsed = tf_example_pb2.Example.FromString(record).features.feature
    assert list(parsed["i"].int64_list.value) == [5, -1] and list(parsed["f"].float_list.value) == [1.5, -2.0]


@hypothesis.given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(record):
    try:
        read(record)
    except example.Malformed as error:
        assert str(error)


@hypothesis.given(EXAMPLES, st.data())
def test_damaged_examples_are_read_or_refused(values, data):
    record = bytearray(serialize(values))
    hypothesis.assume(record)
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    cut = bytes(record[: data.draw(st.integers(0, len(record)))])
    try:
        read(cut)
    except example.Malformed:
        return
    parsed = tf_example_pb2.Example()
    try:
        parsed.ParseFromString(cut)
    except Exception:  # protobuf refuses more than we do: text in names of fields that we skip
        return
    # What both accept they read alike.
    expected = {k: v for k, v in parsed.features.feature.items() if v.WhichOneof("kind")}
    ours = read(cut)
    for name, feature in expected.items():
        assert len(ours[name]) == len(getattr(feature, feature.WhichOneof("kind")).value)


@pytest.mark.parametrize(
    "record, message",
    [
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "past the end"),  # a length of 2^63
        (b"\x0a" + b"\xff" * 12, "does not end"),  # a length of too many bytes
        (b"\x0a\x05\x0a", "past the end"),  # cut short
        (b"\x0b" * 5000, "wire type 3"),  # groups, nested 5,000 deep
        (b"\x0a\x02\x0a\x7f", "past the end"),  # an inner length beyond its own message
        (b"\x00\x01", "field number 0"),
    ],
)
def test_hostile_bytes_are_refused_in_a_word(record, message):
    with pytest.raises(example.Malformed, match=message):
        read(record)


def test_a_feature_of_another_kind_is_refused():
    record = serialize({"a": ("float", [1.0])})
    with pytest.raises(example.Malformed, match="stored as float and not as int64"):
        example.ints(record, example.parse(record)["a"])


@hypothesis.given(EXAMPLES, st.lists(st.integers(-(2**31), 2**31 - 1), max_size=20))
def test_a_feature_is_added_and_the_others_stay(values, numbers):
    hypothesis.assume("new" not in values)
    longer = example.with_ints(serialize(values), "new", np.array(numbers, np.int64))
    parsed = tf_example_pb2.Example.FromString(longer).features.feature
    assert list(parsed["new"].int64_list.value) == numbers
    assert read(longer) == {name: value for name, (_, value) in values.items()} | {"new": numbers}
    with pytest.raises(example.Malformed, match="'new' already"):
        example.with_ints(longer, "new", np.zeros(1))
