"""Each measure by itself, on arrays whose answer is known."""

import json

import judge_world
import numpy as np
import pytest

from lapa_jax.errors import UserError
from lapa_jax.evaluation import probes
from lapa_jax.evaluation.judge import (
    consistency,
    control,
    flow,
    images,
    lines,
    lpips,
    meters,
    mlp,
    motion,
    outcome,
    pairs,
    splits,
    subject,
    swap,
    usage,
    verdicts,
)
from lapa_jax.evaluation.judge.outcome import NotMeasured


def test_usage_counts_positions_alone_and_sequences_together():
    codes = np.array([[0, 1], [1, 1], [2, 1], [3, 1]])
    found = usage.measure(codes, 5)
    assert found["perplexity"] == pytest.approx([4, 1]) and found["perplexity_share"] == pytest.approx(0.2)
    assert found["never_used"] == 1 and found["never_used_codes"].tolist() == [4] and found["used_share"] == 0.8
    assert found["joint"]["perplexity"] == pytest.approx(4) and found["joint"]["seen"] == 4
    assert found["joint"]["possible_bits"] == pytest.approx(2 * np.log2(5)) and found["largest_share"] == 1.0
    with pytest.raises(NotMeasured, match="continuous"):
        usage.measure(None, None)


def test_divergence_is_0_for_the_same_1_for_disjoint_and_in_bits():
    p, q = np.array([[0.5, 0.5, 0, 0]]), np.array([[0, 0, 0.25, 0.75]])
    assert usage.divergence(p, p) == 0 and usage.divergence(p, q) == pytest.approx(1)
    half = np.array([[1.0, 0, 0, 0]])
    assert usage.divergence(p, half) == pytest.approx(0.311278, abs=1e-6)  # (0.2075 + 0.4150) / 2


def test_spread_counts_the_directions_that_vary():
    rng = np.random.default_rng(0)
    z = np.zeros((4000, 2, 3))
    z[:, 0, :2] = rng.normal(size=(4000, 2))
    assert usage.spread(z)["directions"] == pytest.approx(2, abs=0.02) and usage.spread(z)["dims"] == 6
    assert usage.spread(np.ones((5, 1, 3)))["directions"] == 0.0
    wide = usage.spread(rng.normal(size=(20, 1, 500)))  # fewer rows than dimensions
    assert 10 < wide["directions"] < 20


def test_ssim_is_that_of_scikit_image():
    """Recorded from scikit-image 0.26.0: structural_similarity(gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False, data_range=1.0, channel_axis=-1)."""
    rng = np.random.default_rng(0)
    a = rng.random((2, 24, 20, 3))
    b = np.clip(a + rng.normal(0, 0.2, a.shape), 0, 1)
    np.testing.assert_allclose(images.ssim(a, b), [0.8174206288945829, 0.8085194627277815], rtol=1e-9)
    np.testing.assert_allclose(images.ssim(a, a), 1.0)
    assert np.isnan(images.ssim(a[:, :10], b[:, :10])).all()


def test_lpips_is_that_of_its_authors(tmp_path):
    """Recorded from the lpips package 0.1.4 with torch 2.13.0, on weights that follow from the seed."""
    rng, weights = np.random.default_rng(0), {}
    for name, shape in lpips.shapes().items():
        if name.startswith("lin"):
            value = rng.random(shape)
        else:
            scale = 0.1 if name.endswith("bias") else 1 / np.sqrt(np.prod(shape[1:]))
            value = rng.normal(0, scale, shape)
        weights[name] = value.astype(np.float32)
    np.savez(tmp_path / "alex.npz", **weights)
    rng = np.random.default_rng(1)
    a = rng.random((2, 64, 48, 3)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.1, a.shape), 0, 1).astype(np.float32)
    distance = lpips.load(str(tmp_path / "alex.npz"))
    np.testing.assert_allclose(distance(a, b), [0.08529402315616608, 0.08082147687673569], rtol=1e-4)
    assert distance(a, a).max() == 0
    with pytest.raises(UserError, match="31 pixels, got 16x48"):
        distance(a[:, :16], b[:, :16])
    weights["features.0.bias"] = weights["features.0.bias"][:5]
    np.savez(tmp_path / "other.npz", **weights)
    with pytest.raises(UserError, match=r"other.npz has \(5,\) for features.0.bias and LPIPS needs \(64,\)"):
        lpips.load(str(tmp_path / "other.npz"))
    with pytest.raises(UserError, match="no LPIPS weights at"):
        lpips.load(str(tmp_path / "none.npz"))


def test_gain_is_over_all_pairs_so_that_still_pairs_do_not_decide():
    first = np.zeros((3, 12, 12, 3), np.float32)
    then, rebuilt = first.copy(), first + 1e-3
    then[0] += 0.4
    rebuilt[0] += 0.2
    found = images.measure(images.rows(first, then, rebuilt, True), np.arange(3), True, 0)
    assert found["gain_db"] == pytest.approx(6.02, abs=0.1) and found["better_share"] == pytest.approx(1 / 3)
    assert found["psnr"] - found["copy_psnr"] == pytest.approx(found["gain_db"])
    assert images.psnr(np.array([0.0, 0.01])) == pytest.approx([58.92, 20], abs=0.01)


def test_cosine_looks_at_every_place():
    a = np.zeros((1, 2, 1, 2))
    a[0, :, 0] = [[1, 0], [0, 2]]
    b = np.zeros((1, 2, 1, 2))
    b[0, :, 0] = [[3, 0], [0, -1]]
    assert images.cosine(a, b) == pytest.approx([0.0]) and images.cosine(a, a) == pytest.approx([1.0])


def test_controllability_is_the_mean_difference_in_db():
    true, random = np.array([0.001, 0.001]), np.array([[0.01, 0.001], [0.01, 0.1]])
    found = control.measure(true, random, np.array([0, 1]), True, 0)
    assert found["delta_db"] == pytest.approx(10) and found["psnr"] == pytest.approx(30)
    assert found["interval"][0] <= 10 <= found["interval"][1] and found["positive_share"] == 1.0
    drawn = control.random_rows(1000, 3)
    assert drawn.shape == (control.DRAWS, 1000) and (drawn == control.random_rows(1000, 3)).all()


def test_no_episode_is_on_two_sides():
    episodes = np.repeat(np.arange(10), 7)
    split = splits.Split.of(episodes, 0)
    sides = [set(episodes[rows]) for rows in (split.fit, split.stop, split.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 10 and [len(s) for s in sides] == [5, 2, 3]
    with pytest.raises(NotMeasured, match="there are 2"):
        splits.Split.of(np.repeat([0, 1], 20), 0)


def test_strangers_are_of_another_episode():
    episodes, rows = np.repeat(np.arange(4), 5), np.arange(5, 20)
    others = splits.strangers(episodes, rows, 0)
    assert (episodes[others] != episodes[rows]).all() and set(others) <= set(rows)
    with pytest.raises(NotMeasured, match="all of one"):
        splits.strangers(episodes, np.arange(5), 0)


def test_the_interval_counts_episodes_not_pairs():
    """Forty copies of each of four values are no more evidence than the four."""
    values, episodes = np.repeat([0.0, 1.0, 2.0, 3.0], 40), np.repeat(np.arange(4), 40)
    low, high = splits.interval(lambda rows: float(values[rows].mean()), episodes, 0)
    assert low < 0.8 and high > 2.2


def test_an_mlp_reads_what_no_linear_probe_can_and_nothing_in_noise():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(900, 5))
    y = np.stack([x[:, 0] * x[:, 1], np.abs(x[:, 2])], axis=1)
    read = mlp.fit(x[:600], y[:600], x[600:700], y[600:700], 0)
    assert probes.linear_probe(x[:600], y[:600], x[700:], y[700:]).max() < 0.1
    assert probes.r2(read(x[700:]), y[700:]).min() > 0.7
    again = mlp.fit(x[:600], y[:600], x[600:700], y[600:700], 0)
    np.testing.assert_array_equal(again(x[700:]), read(x[700:]))
    noise = rng.normal(size=(900, 2))
    assert (
        probes.r2(mlp.fit(x[:600], noise[:600], x[600:700], noise[600:700], 0)(x[700:]), noise[700:]).max() < 0.05
    )


def test_the_ridge_follows_from_rows_that_are_not_scored():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 60))
    y = x[:, :1] + rng.normal(size=(200, 1))
    read = probes.tuned(x[:70], y[:70], x[70:130], y[70:130])
    loose = probes.fit(x[:70], y[:70], (1e-4,))[0]
    assert probes.r2(read(x[130:]), y[130:]) > probes.r2(loose(x[130:]), y[130:]) + 0.1


def test_a_reader_of_images_is_not_thrown_off_by_a_place_where_little_moved_before():
    """The second feature is an event that is rare in the fitted rows, and once far larger in the scored ones."""
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(size=300), np.arange(300) % 20 == 0], axis=1)
    y = x.sum(axis=1, keepdims=True)
    x[250, 1] = 50.0
    split = splits.Split(np.arange(100), np.arange(100, 200), np.arange(200, 300))
    whole, cut = (motion.Reader.fit(x, y, split, cut)(x[split.test]) for cut in (False, True))
    assert motion.score(whole, y[split.test]) < -5 and motion.score(cut, y[split.test]) > 0.9
    assert whole[50] > 40  # a latent action may say more than any before: then nothing is cut


def test_many_codes_are_read_without_a_column_for_each():
    """A million one-hot columns would not fit; the same codes still get the same numbers."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 40, (600, 2)) * 997
    latent = subject.Latent(codes, np.zeros((600, 2, 1)), np.zeros((600, 2, 1)))
    x = motion.inputs(latent, 500_000, "codes")
    assert x.shape == (600, 1024)
    np.testing.assert_array_equal(x, motion.inputs(latent.rows(slice(None)), 500_000, "codes"))
    y = np.stack([codes[:, 0] % 7, codes[:, 1] % 5], axis=1).astype(float)
    split = splits.Split(np.arange(400), np.arange(400, 500), np.arange(500, 600))
    assert motion.score(motion.Reader.fit(x, y, split)(x[split.test]), y[split.test]) > 0.95
    found = usage.measure(codes, 500_000)
    assert found["usage"].shape == (1, 512) and found["usage_sorted"] and found["perplexity"][0] < 41


def test_direction_ignores_length_and_pairs_that_stand_still():
    wanted = np.array([[1.0, 0], [0, 2.0], [-1.0, 0], [0, -2.0], [0, 0]])
    assert meters.direction(0.1 * wanted, wanted) == pytest.approx(1)
    assert meters.direction(-wanted, wanted) == pytest.approx(-1)
    assert meters.direction(np.zeros_like(wanted), wanted) == 0
    assert np.isnan(meters.direction(wanted, np.zeros_like(wanted)))


def test_a_meter_that_reads_nothing_is_no_meter():
    rng = np.random.default_rng(0)
    split, wanted = splits.Split.of(np.repeat(np.arange(10), 20), 0), rng.normal(size=(200, 2))
    with pytest.raises(NotMeasured, match="cannot be read off"):
        meters.Meter.fit({"difference": rng.normal(size=(200, 6))}, wanted, split)
    noise = 0.5 * rng.normal(size=(200, 2))
    found = meters.Meter.fit({"flow": wanted + noise, "difference": rng.normal(size=(200, 6))}, wanted, split)
    assert found.kind == "flow" and 0.7 < found.r2 < 0.9


def test_a_swap_without_a_ceiling_scores_0_of_it():
    rng = np.random.default_rng(0)
    wanted, noise = rng.normal(size=(2, 400, 2))
    meter, episodes = meters.Meter("flow", None, 0.9, 0.9), np.repeat(np.arange(20), 20)
    nothing = swap.measure(noise, noise, wanted, meter, episodes, 0)
    assert nothing["of_ceiling"] == 0.0 and abs(nothing["over_chance"]) < 0.1
    whole = swap.measure(wanted, wanted, wanted, meter, episodes, 0)
    assert [whole[k] for k in ("cosine", "of_ceiling", "r2")] == pytest.approx([1, 1, 1], abs=0.01)
    low, high = swap.measure(wanted + noise, wanted, wanted, meter, episodes, 0)["interval"]
    assert 0.4 < low < high < 1


def test_chance_is_not_0_where_all_clips_move_alike():
    """A cosine of 0.9 says nothing when every motion points the same way."""
    rng = np.random.default_rng(0)
    wanted = [5, 0] + rng.normal(size=(200, 2))
    constant = np.tile([1.0, 0.0], (200, 1))
    found = swap.measure(constant, wanted, wanted, meters.Meter("flow", None, 1, 1), np.arange(200), 0)
    assert found["cosine"] > 0.9 and found["over_chance"] == pytest.approx(0, abs=1e-6)


def test_laws_of_motion():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 200, 2))
    episodes, spread = np.repeat(np.arange(20), 10), np.ones(2)
    back = consistency.reversal(first, -first, first, episodes, 0)
    assert [back["r2"], back["flip"]] == pytest.approx([1, 1])
    same = consistency.reversal(first, first, first, episodes, 0)
    assert same["r2"] < -2 and same["flip"] == pytest.approx(-1)
    whole = consistency.composition(first, second, first + second, spread, episodes, 0)
    assert [whole["correlation"], whole["r2"]] == pytest.approx([1, 1])
    saturated = consistency.composition(first, second, 0.5 * (first + second), spread, episodes, 0)
    assert saturated["correlation"] == pytest.approx(1) and saturated["r2"] < 0.1
    other = consistency.composition(first, second, rng.normal(size=(200, 2)), spread, episodes, 0)
    assert abs(other["correlation"]) < 0.15
    constant = consistency.composition(*np.ones((3, 200, 2)), spread, episodes, 0)
    assert constant["correlation"] == 0.0


def test_pooling_takes_any_size():
    maps = np.arange(2 * 11 * 5 * 3, dtype=np.float32).reshape(2, 11, 5, 3)
    small = flow.pooled(maps, 4)
    assert small.shape == (2, 4, 4, 3)
    np.testing.assert_allclose(small[:, 0, 0], maps[:, :2, :1].mean(axis=(1, 2)))
    assert flow.pooled(maps, 8).shape == (2, 8, 5, 3)


@pytest.mark.skipif(not flow.available(), reason="needs OpenCV")
def test_flow_points_right_and_up_and_sums_along_the_way():
    rng = np.random.default_rng(0)
    patch = np.kron(rng.integers(0, 255, (5, 5, 3)), np.ones((4, 4, 1))).astype(np.uint8)

    def frame(row, column):
        image = np.full((64, 64, 3), 120, np.uint8)
        image[row : row + 20, column : column + 20] = patch
        return image

    way = np.stack([frame(30 - 2 * i, 10 + 3 * i) for i in range(5)])[None]
    moved, described = flow.along(way)
    np.testing.assert_allclose(moved[0], [12 / 64, 8 / 64], rtol=0.3)
    np.testing.assert_allclose(described[0, :2], moved[0])


def test_what_the_robot_did_is_summed_over_the_gap(robot_episodes):
    """The tabletop's actions are displacements; the effector follows them."""
    held = pairs.Pairs.sample("tabletop", robot_episodes, 0.4, 20, 64, 0).held
    found = pairs.actions(robot_episodes, held)
    assert found.columns == ("dx", "dy") and found.true
    e, t = held.pairs[3]
    np.testing.assert_allclose(
        found.values[3], robot_episodes["action"][e][t : t + held.gap].sum(axis=0), rtol=1e-6
    )
    effector = pairs.true_motion(robot_episodes, held)
    assert effector.name == "effector displacement" and effector.columns == ("x", "y")
    np.testing.assert_allclose(effector.values, held.motion, rtol=1e-6)


def test_triples_go_on_for_the_same_gap(robot_episodes):
    found = pairs.Pairs.sample("tabletop", robot_episodes, 0.4, 20, 64, 0)
    assert len(found.triple) == len(found.third) > 0
    for row, image in zip(found.triple, found.third, strict=True):
        e, t = found.held.pairs[row]
        np.testing.assert_array_equal(image, robot_episodes.frame(e, t + 2 * found.held.gap, 64))


def test_an_absent_number_says_why_and_json_has_no_nan():
    results = {"a": {outcome.KEY: "no camera"}, "b": {"c": float("nan"), "d": {outcome.KEY: "no weights"}, "e": 1}}
    assert outcome.read(results, "a.x.y") == (None, "no camera")
    assert outcome.read(results, "b.c")[0] is None and outcome.read(results, "b.e") == (1.0, "")
    assert outcome.read(results, "b.d") == (None, "no weights")
    with pytest.raises(KeyError):
        outcome.read(results, "b.typo")
    values = {"x": np.array([1.5, np.nan]), "y": (np.float32(2), np.int64(3)), "z": np.inf}
    assert json.loads(json.dumps(outcome.plain(values), allow_nan=False)) == {
        "x": [1.5, None],
        "y": [2.0, 3],
        "z": None,
    }


def test_thresholds_and_lines_name_the_same(load_config):
    thresholds = load_config("evaluate_laq").thresholds
    assert set(thresholds) == set(lines.NAMES) and len(set(lines.NAMES)) == len(lines.NAMES)
    with pytest.raises(UserError, match="name not the same: swap"):
        verdicts.verdicts({"datasets": {}}, {k: v for k, v in thresholds.items() if k != "swap"})


def test_a_close_call_is_told():
    line = next(line for line in lines.LINES if line.name == "probe")
    near = verdicts.Verdict(line, "a", 0.5, 0.52, verdicts.PASS, "", (0.4, 0.6))
    clear = verdicts.Verdict(line, "a", 0.5, 0.9, verdicts.PASS, "", (0.8, 0.95))
    assert near.close and not clear.close
    assert "PASS  a  Motion read" in verdicts.table([near]) and ">= 0.5" in verdicts.table([near])
    assert not line.met(0.49, 0.5) and next(x for x in lines.LINES if x.at_most).met(0.05, 0.1)


def test_the_world_is_what_it_says():
    world = judge_world.make(episodes=3)
    subject = judge_world.honest()
    latent = subject.encode(world.held.frame, world.held.following)
    np.testing.assert_array_equal(subject.lookup(latent.codes), latent.codewords)
    np.testing.assert_allclose(
        subject.decode(world.held.frame, latent.codewords), subject.view(world.held.following)
    )
