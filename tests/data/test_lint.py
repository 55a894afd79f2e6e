"""Each check on a dataset with that one fault, and on one without any."""

import re

import make_robot
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import columns, rlds, statistics
from lapa_jax.data.card import contents as card
from lapa_jax.data.card import lint, lint_arrays, samples
from lapa_jax.data.video import motion


def findings(folder, tmp_path):
    return card.make(str(folder), "train", cache=str(tmp_path / "cache")).findings


def nan(toy):
    toy.action[3][5, 1] = np.nan
    toy.action[7][0] = np.inf


def near_constant(toy):
    for rows in toy.proprio:
        rows[:, 1] = 3 + 1e-4 * rows[:, 1]


def outliers(toy):
    toy.action[4][6, 2] = 40.0
    toy.action[9][1, 2] = -40.0


def saturated(toy):
    for rows in toy.action:
        rows[:, 0] = np.clip(rows[:, 0], -1, 0.02)


def gripper(toy):
    for rows in toy.action:
        rows[:, 3] = 1
    toy.action[0][:20, 3] = 0


def idle(toy):
    for rows in toy.action:
        rows[::3, :3] *= 1e-3


def static(toy):
    for frames in toy.image_primary:
        frames[10:60] = [frames[10]] * 50


def empty(toy):
    toy.image_wrist = [[make_robot.flat(9)] * len(frames) for frames in toy.image_wrist]


def undecodable(toy):
    toy.image_wrist = [[frame[:40] for frame in frames] for frames in toy.image_wrist]


def instructions(toy):
    toy.instructions[2] = toy.instructions[5] = ""


def one_instruction(toy):
    toy.instructions = ["push the block"] * len(toy.instructions)


def short(toy):
    toy.cut(6, 1)


def long(toy):
    for episode in range(1, len(toy.action)):
        toy.cut(episode, 8)


def duplicates(toy):
    for rows in (toy.action, toy.proprio, toy.image_primary, toy.image_wrist):
        rows[10] = rows[4]


def rate(toy):
    toy.rate = None


def few_rows(toy):
    for episode in range(len(toy.action)):
        toy.cut(episode, 20)


SPOILED = {
    nan: ("error", "not_finite", r"action: 2 of 1200 steps .* dimensions 0\.\.3, first at episode 3 step 5"),
    near_constant: ("warning", "near_constant", r"proprio: dimension 1 near-constant .*0\.001"),
    outliers: (
        "warning",
        "outliers",
        r"action: .* 5 widths .*: dimension 2 in 2 of 1200 .* 40 at episode 4 step 6",
    ),
    saturated: ("warning", "saturated", r"action: .* dimension 0 in \d+ % of the steps at 0\.02"),
    gripper: ("warning", "gripper", r"action: dimension 3 is near 0 in 1\.7 % .* near 1 in 98 %.* 5 %"),
    idle: ("warning", "idle", r"action: idle: in 34 % of the steps .* 1 % .* first at episode 0 step 0 .*20 %"),
    static: ("warning", "static", r"\d+ of 128 sampled pairs 0\.6 s apart are static: .*0\.2 %"),
    empty: ("warning", "empty", r"image_wrist: 64 of 64 sampled frames are empty .*2 of 255"),
    undecodable: ("error", "undecodable", r"image_wrist: 64 of 64 sampled frames cannot be decoded"),
    instructions: ("warning", "instructions", r"2 of 12 .* no instruction; the first is episode 2; .* 3 distinct"),
    one_instruction: ("note", "instructions", r"all 12 episodes have the same"),
    short: ("warning", "short", r"1 of 12 episodes: fewer than 2 steps, .* episode 6"),
    duplicates: ("warning", "duplicates", r"1 of 12 .* episode 10 repeats episode 4"),
    rate: ("warning", "rate", r"steps a second is not known"),
}


def test_nothing_is_found_where_nothing_is_wrong(tmp_path):
    assert findings(make_robot.write(tmp_path, make_robot.robot()), tmp_path) == ()


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda spoil: spoil.__name__)
def test_each_fault_is_found_and_no_other(spoil, tmp_path):
    toy = make_robot.robot()
    spoil(toy)
    level, key, message = SPOILED[spoil]
    (found,) = findings(make_robot.write(tmp_path, toy), tmp_path)
    assert (found.level, found.key) == (level, key)
    assert re.search(message, found.message), found.message
    assert "\n" not in found.message


@pytest.mark.parametrize(("spoil", "expected"), [(long, {"long", "few_rows"}), (few_rows, {"few_rows"})])
def test_faults_that_leave_few_rows(spoil, expected, tmp_path):
    toy = make_robot.robot()
    spoil(toy)
    assert {found.key for found in findings(make_robot.write(tmp_path, toy), tmp_path)} == expected


def test_damaged_records_are_found_and_left_out(tmp_path):
    folder = make_robot.write(tmp_path, make_robot.robot())
    shard = next(folder.glob("*train*"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    made = card.make(str(folder), "train", cache=str(tmp_path / "cache"))
    (found,) = made.findings
    assert (found.level, found.key) == ("error", "damaged") and str(shard) in found.message
    assert len(made.episodes) == 11


def table(name, columns_of, names=()):
    """An `Array` of columns float32[N] each, one episode of N steps."""
    gathered = columns.gather([np.stack(columns_of, axis=1).astype(np.float32)])
    return lint_arrays.Array(name, gathered, statistics.of_columns(gathered), names)


def keys(found):
    return {finding.key for finding in lint_arrays.check_action(found)}


def test_thresholds_are_where_they_are_said_to_be():
    rng = np.random.default_rng(0)
    move = np.clip(rng.normal(size=1000), -3, 3)
    move[:2] = -3, 3
    for share, expected in ((0.06, set()), (0.04, {"gripper"})):
        assert keys(table("action", [move, np.arange(1000) < share * 1000])) == expected
    hand = np.arange(1000) % 2
    for share, expected in ((0.15, set()), (0.25, {"idle"})):
        assert keys(table("action", [np.where(np.arange(1000) < share * 1000, 0, move), hand])) == expected
    for share, expected in ((0.03, set()), (0.1, {"saturated"})):
        clipped = np.minimum(move, np.quantile(move, 1 - share))
        assert keys(table("action", [clipped, hand])) == expected
    width = np.diff(np.quantile(move, (0.01, 0.99)))[0]
    for far, expected in ((4.5, set()), (6.0, {"outliers"})):
        wild = move.copy()
        wild[500] = np.quantile(move, 0.99) + far * width
        assert keys(table("action", [wild, hand])) == expected


def test_a_gripper_is_known_by_its_name_or_by_two_values():
    rng = np.random.default_rng(0)
    move, rare = rng.normal(size=(2, 2000)), np.arange(2000) < 40
    assert keys(table("action", [rare, *move], ("gripper_closed", "dx", "dy"))) == {"gripper"}
    assert "gripper" not in keys(table("action", [rare, *move]))
    assert "gripper" not in keys(table("action", [*move, rare], ("dx", "dy", "dz")))
    # One far outlier leaves two clusters, but no gripper.
    lone = move[1].copy()
    lone[3] = 1000
    assert keys(table("action", [move[0], lone])) == {"outliers"}


def test_proprio_is_not_checked_as_an_action():
    still = np.zeros(2000)
    still[::2] = np.random.default_rng(0).normal(size=1000)
    found = table("proprio", [still, np.arange(2000) < 40])
    assert lint_arrays.check(found) == []
    assert keys(found) == {"idle", "gripper"}


def test_an_array_without_any_finite_value_is_an_error_only():
    found = table("action", [np.full(2000, np.nan), np.random.default_rng(0).normal(size=2000)])
    levels = {finding.level for finding in lint_arrays.check_action(found)}
    assert keys(found) == {"not_finite", "near_constant"} and levels == {"error", "warning"}


def test_long_lists_of_dimensions_are_short():
    found = table("action", [np.arange(9)] * 9)
    assert found.listed(np.array([0, 2, 3, 4, 5, 8])) == "dimensions 0, 2..5, 8"
    assert found.listed(np.array([7])) == "dimension 7"


def test_duplicates_are_found_without_an_index_as_well(tmp_path):
    toy = make_robot.robot()
    duplicates(toy)
    folder = make_robot.write(tmp_path, toy, {"train": range(12), "test": range(1)})
    stored = rlds.open_episodes(folder, "train", "robot", cache=str(tmp_path / "cache"))
    for episodes in (stored, stored.decoded(), stored.chosen(range(3, 12), "some")):
        numbers, checksums = samples.checksums(episodes)
        assert len(numbers) == len(checksums) == len(episodes)
        (found,) = lint.duplicates(numbers, checksums)
        shift = 12 - len(episodes)
        assert f"episode {10 - shift} repeats episode {4 - shift}" in found.message


def test_frames_that_never_change_are_no_duplicates(tmp_path):
    toy = make_robot.robot(4, 10)
    toy.image_primary = [[make_robot.flat(9)] * 10] * 4
    folder = make_robot.write(tmp_path, toy)
    episodes = rlds.open_episodes(folder, "train", "robot", cache=str(tmp_path / "cache"))
    assert lint.duplicates(*samples.checksums(episodes)) == []


def test_samples_lie_within_their_episodes_and_do_not_change():
    lengths = np.array([3, 0, 1, 40, 7])
    places = samples.places(lengths, 20)
    assert places == samples.places(lengths, 20) and len(set(places)) == 20
    assert all(0 <= t < lengths[e] for e, t in places)
    assert sorted(samples.places(lengths, 1000)) == [(e, t) for e in range(5) for t in range(lengths[e])]
    assert samples.places(np.array([0]), 5) == []


def test_change_is_the_share_of_pixels_and_not_of_light():
    image = np.random.default_rng(0).integers(0, 100, (40, 40, 3), np.uint8)
    assert samples.change(image, image + np.uint8(50)) == 0
    moved = image.copy()
    moved[:10, :20] = 255
    assert samples.change(image, moved) == pytest.approx(0.125, abs=0.001)
    assert samples.change(image, image[:20]) == 1


def test_static_means_what_the_video_filter_means():
    assert lint.STATIC == motion.Filters().static


def test_empty_split_is_an_error(tmp_path):
    toy = make_robot.robot(2, 4)
    toy.cut(0, 0)
    folder = make_robot.write(tmp_path, toy, {"train": range(1), "test": range(2)})
    with pytest.raises(errors.UserError, match="'train' .* has no steps"):
        findings(folder, tmp_path)
