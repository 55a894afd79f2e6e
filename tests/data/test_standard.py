"""Operations by hand-made numbers, every entry of the table, and every refusal."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import rlds
from lapa_jax.data.tables import entries, standard

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "data" / "bridge_dataset"
NAN = np.nan


def column(*values):
    return np.array(values, np.float32)[:, None]


@pytest.mark.parametrize(
    "op, before, after",
    [
        ("keep", [0.5, -2], [0.5, -2]),
        ("zeros", [0.5, -2], [0, 0]),
        ("negate", [0.5, -2], [-0.5, 2]),
        ("invert", [0, 1, 0.25], [1, 0, 0.75]),
        ("clip01", [-1, 0.5, 1, 3], [0, 0.5, 1, 1]),
        ("clip_invert", [-1, 0, 1, 0.25], [1, 1, 0, 0.75]),
        # On the way from open to closed: the value it arrives at. At the end: the last clear one.
        ("binarize", [1, 0.7, 0.2, 0.0, 0.5, 1, 0.6], [1, 0, 0, 0, 1, 1, 1]),
        ("binarize", [0.6, 0.4], [1, 0]),
        ("binarize", [0.5, NAN, 1], [1, NAN, 1]),
        ("rel2abs", [0, 1, 0, 0, -1, 0.05], [1, 0, 0, 0, 1, 1]),
        ("rel2abs", [0, 0, -1, 0, 1], [0, 0, 1, 1, 0]),
        ("rel2abs", [0, 0.1, -0.1], [1, 1, 1]),
        ("rel2abs", [1, NAN, 0], [0, NAN, 0]),
        ("difference_next", [1, 3, 2], [2, -1, -1]),
        ("difference_next", [4], [0]),
        ("angle_difference_next", [3, -3, 3], [2 * np.pi - 6, 6 - 2 * np.pi, 6 - 2 * np.pi]),
        ("angle_difference_next", [0.1, 0.4], [0.3, 0.3]),
    ],
)
def test_operations_of_one_column(op, before, after):
    result = entries.OPS[op](column(*before))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, column(*after), atol=1e-6)


def test_quaternions_become_roll_pitch_yaw():
    half = np.sqrt(0.5)
    quaternions = np.array(
        [
            [0, 0, 0, 1],
            [half, 0, 0, half],
            [0, 0.5, 0, 0.75**0.5],
            [0, 0, -half, half],
            [0, 0, 0, -3],
            [0, 0, 0, 0],
        ],
        np.float32,
    )
    right = np.pi / 2
    expected = [[0, 0, 0], [right, 0, 0], [0, np.pi / 3, 0], [0, 0, -right], [0, 0, 0], [NAN] * 3]
    np.testing.assert_allclose(entries.OPS["quaternion_to_rpy"](quaternions), expected, atol=1e-6)
    # Roll 0.1, then pitch 0.2, then yaw 0.3 about fixed axes.
    roll, pitch, yaw = 0.1, 0.2, 0.3
    axes = [(np.sin(a / 2) * np.eye(3)[i], np.cos(a / 2)) for i, a in enumerate((roll, pitch, yaw))]

    def product(p, q):
        return p[1] * q[0] + q[1] * p[0] + np.cross(p[0], q[0]), p[1] * q[1] - p[0] @ q[0]

    vector, scalar = product(product(axes[2], axes[1]), axes[0])
    found = entries.OPS["quaternion_to_rpy"](np.array([[*vector, scalar]], np.float32))
    np.testing.assert_allclose(found, [[roll, pitch, yaw]], atol=1e-6)


@pytest.mark.parametrize("op", entries.OPS)
def test_operations_take_columns_apart_and_empty_episodes(op):
    both = np.array([[1, -1, 0, 0.3], [0, 1, -1, 0.9], [-1, 0, 0, 0.1], [0, 0, 1, 0.5]], np.float32)
    function = entries.OPS[op]
    assert len(function(both[:0])) == 0
    if op != "quaternion_to_rpy":
        np.testing.assert_array_equal(function(both), np.hstack([function(both[:, [i]]) for i in range(4)]))


def test_apply_puts_parts_side_by_side():
    raw = {
        "action/move": np.arange(12).reshape(2, 2, 3),
        "action/open": np.array([True, False]),
        "state": np.array([[1.0, 5.0], [3.0, 5.0]], np.float64),
    }
    parts = (
        standard.Part("action/move", (4, None)),
        standard.Part("action/move", (-6, -5), "negate"),
        standard.Part("action/open"),
        standard.Part("state", (0, 1), "difference_next"),
    )
    result = standard.apply(parts, raw)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, [[4, 5, 0, 1, 2], [10, 11, -6, 0, 2]])
    assert raw["action/move"].dtype.kind == "i", "the input is left as it is"


@pytest.mark.parametrize(
    "parts, raw, words",
    [
        ((), {}, ("no such array",)),
        ((standard.Part("action"),), {"state": np.zeros((2, 3))}, ("action", "state")),
        ((standard.Part("action"),), {"action": np.array(["a"])}, ("action", "<U1")),
        ((standard.Part("action"),), {"action": np.float32(1)}, ("action",)),
        ((standard.Part("action", (6, 7)),), {"action": np.zeros((2, 6))}, ("action", "6 values", "[6, 7]")),
        ((standard.Part("action", (0, 7)),), {"action": np.zeros((2, 6))}, ("action", "6 values")),
        ((standard.Part("action", (-7, None)),), {"action": np.zeros((2, 6))}, ("action", "6 values")),
        ((standard.Part("action", (3, 3)),), {"action": np.zeros((2, 6))}, ("action", "[3, 3]")),
        (
            (standard.Part("action"), standard.Part("state")),
            {"action": np.zeros((2, 6)), "state": np.zeros((3, 6))},
            ("state has 3", "action has 2"),
        ),
    ],
)
def test_apply_names_what_is_wrong(parts, raw, words):
    with pytest.raises(errors.UserError) as caught:
        standard.apply(parts, raw, "mine")
    assert all(word in str(caught.value) for word in ("mine", *words)) and "\n" not in str(caught.value)


def published(entry):
    """The schema that an entry says its dataset has."""
    text = ((512,), "int32") if entry.text_encoding == "int-utf32" else ((), "object")
    return {
        **{key: ((64, 64, 3), "uint8") for key in entry.images.values()},
        **dict.fromkeys(standard.instruction_keys(entry), text),
        **{key: ((), "bool") if width == 1 else ((width,), "float64") for key, width in entry.widths.items()},
    }


@pytest.mark.parametrize("name", standard.TABLE)
def test_every_entry_is_well_formed(name):
    entry = standard.lookup(name)
    assert entry.name == name and entry.images and entry.source and entry.action and entry.action_dim_names
    assert standard.instruction_keys(entry)
    assert {part.key for part in (*entry.action, *entry.proprio)} == set(entry.widths), "each array has its width"
    standard.check(entry, published(entry))

    rng = np.random.default_rng(0)
    raw = {key: rng.uniform(0, 1, (7, width)).astype(np.float32) for key, width in entry.widths.items()}
    action = standard.apply(entry.action, raw, name)
    assert action.shape == (7, len(entry.action_dim_names)) and np.isfinite(action).all()
    if "gripper" in entry.action_dim_names:
        assert entry.gripper and entry.action_dim_names[-1] == "gripper"
        if entry.gripper.startswith("1 open, 0 closed"):
            assert (action[:, -1] >= 0).all() and (action[:, -1] <= 1).all()


@pytest.mark.parametrize(
    "name, closed, opened",
    [
        ("bridge_dataset", 0, 1), ("bridge", 0, 1), ("fractal20220817_data", 1, -1), ("kuka", 1, -1),
        ("taco_play", -1, 1), ("jaco_play", 1, -1), ("roboturk", 1, -1), ("viola", 1, -1), ("toto", 0, 1),
        ("nyu_door_opening_surprising_effectiveness", 1, -1), ("berkeley_autolab_ur5", 1, -1), ("bc_z", 1, 0),
        ("stanford_hydra_dataset_converted_externally_to_rlds", 1, 0), ("utaustin_mutex", 1, -1),
        ("austin_buds_dataset_converted_externally_to_rlds", 1, -1), ("droid", 1, 0), ("fmb", 1, 0),
        ("austin_sailor_dataset_converted_externally_to_rlds", 1, -1),
        ("austin_sirius_dataset_converted_externally_to_rlds", 1, -1),
        ("furniture_bench_dataset_converted_externally_to_rlds", 1, -1),
    ],
)  # fmt: skip
def test_a_gripper_that_closes_and_opens_is_0_and_1_after_standardising(name, closed, opened):
    entry = standard.lookup(name)
    part = entry.action[-1]
    raw = {key: np.zeros((4, width), np.float32) for key, width in entry.widths.items()}
    raw[part.key][:, slice(*part.columns) if part.columns else slice(None)] = column(closed, closed, opened, opened)
    np.testing.assert_array_equal(standard.apply((part,), raw)[:, 0], [0, 0, 1, 1])


def test_bridge_actions_are_what_the_arm_did():
    entry = standard.lookup("bridge_dataset")
    state = np.zeros((4, 7), np.float32)
    state[:, 0], state[:, 5] = [0, 0.1, 0.1, 0.3], [3.1, -3.1, -3.1, 3.1]
    action = np.full((4, 7), 9, np.float32)
    action[:, 6] = [0, 1, 0.5, 0]
    result = standard.apply(entry.action, {"observation/state": state, "action": action})
    turn = 2 * np.pi - 6.2
    kept = result[entry.trim[0] : len(result) - entry.trim[1]]
    np.testing.assert_allclose(kept[:, [0, 5, 6]], [[0, 0, 1], [0.2, -turn, 0]], atol=1e-6)
    assert not result[:, 1:5].any()


def test_names_are_matched_exactly_after_stripping_and_aliases_are_data():
    assert standard.lookup(" toto\n").name == "toto"
    assert standard.lookup("TOTO") is None and standard.lookup("tot") is None
    for alias, name in standard.ALIASES.items():
        assert standard.lookup(alias).name == name and alias not in standard.TABLE
    assert len(standard.TABLE) == len({*standard.TABLE}) > 40


def changed(schema, key, value):
    result = {**schema, key: value}
    return {k: v for k, v in result.items() if v is not None}


@pytest.mark.parametrize(
    "name, key, value, words",
    [
        ("toto", "observation/image", None, ("image_primary", "observation/image")),
        ("toto", "observation/image", ((480, 640), "uint8"), ("uint8[480, 640]", "image")),
        ("toto", "observation/image", ((480, 640, 1), "float32"), ("float32[480, 640, 1]", "image")),
        ("toto", "observation/natural_language_instruction", None, ("the instruction",)),
        ("toto", "observation/natural_language_instruction", ((512,), "int32"), ("int32[512]", "utf-8")),
        ("language_table", "observation/instruction", ((), "object"), ("is text", "int-utf32")),
        ("toto", "observation/state", None, ("observation/state",)),
        ("toto", "observation/state", ((8,), "float32"), ("float32[8]", "7 numbers")),
        ("toto", "observation/state", ((7,), "object"), ("text[7]", "7 numbers")),
        ("toto", "observation/state", ((-1,), "float32"), ("float32[-1]", "7 numbers")),
        ("toto", "observation/state", ((7,), "complex"), ("complex", "7 numbers")),
        ("toto", "observation/state", ((7,), "nonsense"), ("nonsense", "7 numbers")),
    ],
)
def test_a_dataset_that_is_not_as_the_table_says_is_refused_in_one_line(name, key, value, words):
    entry = standard.lookup(name)
    with pytest.raises(errors.UserError) as caught:
        standard.check(entry, changed(published(entry), key, value))
    message = str(caught.value)
    assert all(word in message for word in (name, key, "docs/datasets.md", *words)) and "\n" not in message


def test_check_finds_columns_and_names_that_do_not_fit():
    entry = standard.Entry("mine", 5, {}, None, action=(standard.Part("action", (0, 7)),))
    with pytest.raises(errors.UserError, match="6 values"):
        standard.check(entry, {"action": ((6,), "float32")})
    named = dataclasses.replace(entry, action_dim_names=("dx", "dy"))
    with pytest.raises(errors.UserError, match="7 columns and its entry names 2"):
        standard.check(named, {"action": ((7,), "float32")})


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"rate": 0}, "rate"), ({"rate": NAN}, "rate"), ({"rate": -5.0}, "rate"), ({"trim": (0, -1)}, "trim"),
        ({"images": {"primary": "x"}}, "primary"), ({"text_encoding": "latin1"}, "text_encoding"),
        ({"action": (standard.Part("action", op="flip"),)}, "flip"),
    ],
)  # fmt: skip
def test_impossible_entries_are_refused(fields, word):
    with pytest.raises(errors.UserError, match=word):
        standard.Entry(**{"name": "mine", "rate": 5, "images": {}, "instruction": None, **fields})


def test_inferred_entries_take_names_in_order_and_set_the_wrist_apart():
    images = ["observation/wrist_cam", "observation/b", "observation/a", "observation/depth_a", "observation/c"]
    arrays = ["action", "observation/state", "reward", "observation/hand_pose"]
    entry = standard.infer("mine", images, arrays, ["observation/instruction", "language_instruction"])
    assert entry.rate is None
    assert entry.images == {
        "image_primary": "observation/a",
        "image_secondary": "observation/b",
        "image_wrist": "observation/wrist_cam",
    }
    assert entry.action == (standard.Part("action"),) and entry.proprio == (standard.Part("observation/state"),)
    assert entry.instruction == ("language_instruction", "observation/instruction")
    for text in (((), "object"), ((64,), "int64")):
        schema = {key: ((8, 8, 3), "uint8") for key in images} | {key: ((2,), "float32") for key in arrays}
        standard.check(entry, schema | {key: text for key in entry.instruction})

    only_hand = standard.infer("mine", ["observation/hand_image", "observation/gripper"], ["action/x"], [])
    assert only_hand.images == {"image_primary": "observation/gripper", "image_wrist": "observation/hand_image"}
    assert only_hand.action == () and only_hand.instruction is None
    assert standard.infer("mine", [], [], []).images == {}


def test_clips_have_the_standard_names():
    class Column:
        def __init__(self, name):
            self.name = name

    names = ("observation/image_primary", "observation/image_wrist", "action", "language_instruction", "is_last")
    entry = standard.clips_entry("ssv2", 12, map(Column, names))
    assert entry.images == {"image_primary": names[0], "image_wrist": names[1]} and entry.rate == 12
    assert entry.action == (standard.Part("action"),) and entry.proprio == ()
    assert standard.clips_entry("ssv2", None).images == {"image_primary": "observation/image_primary"}


def test_added_entries_are_found_and_names_are_not_taken_twice(monkeypatch):
    monkeypatch.setattr(standard, "TABLE", dict(standard.TABLE))
    entry = standard.add(standard.clips_entry("mine", 5))
    assert standard.lookup("mine") is entry
    for name in ("mine", "bridge_orig"):
        with pytest.raises(errors.UserError, match=name):
            standard.add(standard.clips_entry(name, 5))


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs ../shared/data/bridge_dataset")
def test_the_bridge_sample_is_as_the_table_says():
    dataset = rlds.open_dataset(SAMPLE)
    columns = {column.name: (column.shape, column.dtype) for column in dataset.columns}
    standard.check(standard.lookup(dataset.name), columns)


def test_the_page_shows_the_table():
    remedy = "write `python -m lapa_jax.data.tables.standard` into docs/datasets.md"
    assert standard.render() in PAGE.read_text(), remedy


def test_the_example_of_the_page_works_and_has_ten_lines(monkeypatch):
    monkeypatch.setattr(standard, "TABLE", dict(standard.TABLE))
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(code[code.index("standard.add") :].splitlines()) <= 10
    exec(code, {})
    entry = standard.lookup("my_arm")
    raw = {"action": column(0, 1) @ np.ones((1, 7), np.float32)}
    np.testing.assert_array_equal(standard.apply(entry.action, raw)[:, 5:], [[0, 1], [1, 0]])
