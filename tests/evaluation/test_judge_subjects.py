"""Subjects of known virtue before the court: each vice fails its own measure, and virtue passes all."""

import judge_world
import numpy as np
import pytest

from lapa_jax.evaluation.judge import court, flow, outcome, verdicts
from lapa_jax.evaluation.judge.outcome import KEY

SUBJECTS = {
    "honest": judge_world.honest(),
    "blind": judge_world.blind(),
    "scene_bound": judge_world.scene_bound(),
    "place_teller": judge_world.place_teller(),
    "collapsed": judge_world.collapsed(),
    "continuous": judge_world.continuous(),
    "features": judge_world.of_features(judge_world.honest()),
    "blind_features": judge_world.of_features(judge_world.blind()),
}


@pytest.fixture(scope="module")
def judged():
    """name -> results; each subject is judged when it is first asked for."""
    world, found = judge_world.make(), {}

    def of(name):
        if name not in found:
            found[name] = court.Case.open(SUBJECTS[name], world, seed=0).results()
        return found[name]

    return of


def status(results, load_config):
    thresholds = load_config("evaluate_laq").thresholds
    found = verdicts.verdicts({"datasets": {"world": results}, "across": {}}, thresholds)
    return {v.line.name: v.status for v in found}


@pytest.mark.parametrize("name", ["honest", "continuous", "features"])
def test_virtue_passes_every_line_that_can_be_measured(name, judged, load_config):
    found = status(judged(name), load_config)
    assert "FAIL" not in found.values(), found
    expected = {"lpips"} if name == "honest" else {"perplexity", "used", "lpips"} if name == "continuous" else set()
    assert {line for line, s in found.items() if s == verdicts.NOT_MEASURED} == expected


def test_honest_scores_are_near_1(judged):
    found = judged("honest")
    for kind in ("codes", "codewords", "z"):
        assert found["probes"][kind]["linear"]["r2"] > 0.98 and found["probes"][kind]["mlp"]["r2"] > 0.9
    assert found["swap"]["cosine"] > 0.95 and found["swap"]["r2"] > 0.9
    assert found["swap"]["of_ceiling"] == pytest.approx(1, abs=0.05)
    assert found["reversal"]["r2"] > 0.93 and found["reversal"]["flip"] > 0.93
    assert found["composition"]["correlation"] > 0.85
    assert found["images"]["better_share"] > 0.8 and found["images"]["psnr"] > 50
    assert abs(found["swap"]["chance_cosine"]) < 0.15 and found["swap"]["chance_r2"] < 0


def test_jumps_of_any_length_add_up_exactly(judged):
    found = judged("continuous")["composition"]
    assert found["r2"] > 0.99 and found["correlation"] > 0.99 and found["triples"] > 20
    assert judged("honest")["composition"]["r2"] < 0.9  # its codes end at 4 pixels


def test_controls_find_nothing(judged):
    found = judged("honest")["probes"]
    assert found["shuffled"]["linear"]["r2"] < 0.1 and found["shuffled"]["mlp"]["r2"] < 0.1
    assert found["first_frame"]["linear"]["r2"] < 0.1
    assert found["flow"]["linear"]["r2"] > 0.99 and found["of_bound"] == pytest.approx(1, abs=0.02)
    assert found["over_first_frame"] > 0.9


def test_motion_that_the_first_frame_tells_is_no_merit_of_the_codes(load_config):
    found = court.Case.open(judge_world.honest(), judge_world.make(homing=True), seed=0).results()
    probes = found["probes"]
    assert probes["codes"]["linear"]["r2"] > 0.98 and probes["first_frame"]["mlp"]["r2"] > 0.7
    assert probes["over_first_frame"] < 0.28 and status(found, load_config)["over_first_frame"] == "FAIL"


def test_a_decoder_that_ignores_its_codes_fails_control_and_swap(judged, load_config):
    """Its codes are perfect: only decoding tells."""
    found = judged("blind")
    assert found["probes"]["codes"]["linear"]["r2"] > 0.98
    assert found["control"]["delta_db"] == pytest.approx(0, abs=1e-6)
    assert found["images"]["gain_db"] == pytest.approx(0, abs=1e-6)
    assert found["swap"]["over_chance"] < 0.1 and found["swap"]["of_ceiling"] == 0.0
    lines = status(found, load_config)
    assert {n for n, s in lines.items() if s == "FAIL"} == {"gain", "control", "swap", "swap_of_ceiling"}


def test_a_code_that_depends_on_the_scene_fails_the_swap_and_nothing_shows_it_in_its_own_clip(judged, load_config):
    found = judged("scene_bound")
    assert found["images"]["better_share"] > 0.8 and found["swap"]["ceiling_cosine"] > 0.95
    assert found["swap"]["over_chance"] < 0.4 and found["swap"]["of_ceiling"] < 0.4
    lines = status(found, load_config)
    assert lines["gain"] == "PASS" and {lines["swap"], lines["swap_of_ceiling"], lines["probe"]} == {"FAIL"}


def test_a_code_of_places_is_not_undone_by_going_back(judged, load_config):
    found = judged("place_teller")
    assert found["reversal"]["r2"] < 0.3 and found["reversal"]["flip"] < 0.5
    assert status(found, load_config)["reversal"] == "FAIL"


def test_collapse_fails_what_it_touches(judged, load_config):
    found = judged("collapsed")
    assert found["usage"]["perplexity"] == [1.0] and found["usage"]["never_used"] == judge_world.NUM_CODES - 1
    assert "not their motion" in found["composition"][KEY] and found["control"]["delta_db"] == 0.0
    lines = status(found, load_config)
    assert {"perplexity", "used", "gain", "probe", "control", "swap", "reversal"} <= {
        name for name, s in lines.items() if s == "FAIL"
    }


def test_features_are_judged_without_pixels(judged, load_config):
    seeing, blind = judged("features"), judged("blind_features")
    assert seeing["swap"]["meter"]["kind"] == "difference" and seeing["swap"]["over_chance"] > 0.8
    assert blind["swap"]["over_chance"] < 0.15 and blind["control"]["delta_db"] == pytest.approx(0, abs=1e-6)
    assert seeing["images"]["cosine"] > seeing["images"]["copy_cosine"] and "psnr" not in seeing["images"]
    lines = status(seeing, load_config)
    assert "ssim" not in lines and lines["cosine"] == "PASS"


def test_video_without_truth_is_judged_by_measured_flow(load_config):
    case = court.Case.open(judge_world.honest(), judge_world.make(truth=False), seed=0)
    found = case.results()
    assert found["swap"]["over_chance"] > 0.8 and found["reversal"]["r2"] > 0.9
    decided = verdicts.verdicts(
        {"datasets": {"video": found}, "across": {}}, load_config("evaluate_laq").thresholds
    )
    probes = {v.line.name: v for v in decided if v.line.needs_truth}
    assert {v.status for v in probes.values()} == {verdicts.NOT_MEASURED}
    assert probes["probe"].reason.startswith("no effector and no actions; to measured flow it is 1.00")


def test_without_truth_and_without_opencv_it_says_so(monkeypatch):
    world = judge_world.make(truth=False)
    bare = type(world).of("video", world.held, None, None, world.triple, world.third, 0)
    monkeypatch.setattr(flow, "available", lambda: False)
    found = court.Case.open(judge_world.honest(), bare, seed=0).results()
    for name in ("probes", "swap", "reversal", "composition"):
        assert "neither an effector nor actions" in found[name][KEY] and "lapa_jax[video]" in found[name][KEY]
    assert found["images"]["gain_db"] > 1 and found["control"]["delta_db"] > 1


def test_two_episodes_are_too_few_for_probes_and_enough_for_the_rest():
    found = court.Case.open(judge_world.honest(), judge_world.make(episodes=2), seed=0).results()
    assert "there are 2" in found["probes"][KEY] and "there are 2" in found["swap"][KEY]
    assert found["control"]["delta_db"] > 1 and found["usage"]["perplexity_mean"] > 5


def test_the_same_seed_gives_the_same_numbers(judged):
    again = court.Case.open(judge_world.honest(), judge_world.make(), seed=0)
    assert outcome.plain(again.results()) == outcome.plain(judged("honest"))
    other = court.Case.open(judge_world.honest(), judge_world.make(), seed=1)
    assert not np.array_equal(again.rebuilt.random, other.rebuilt.random)


@pytest.mark.skipif(not flow.available(), reason="the matrix of swaps needs OpenCV")
def test_datasets_that_share_codes_are_told_from_those_that_do_not():
    """A subject whose codes depend on the ground, on one world of dark and one of bright ground."""
    worlds = {name: judge_world.make(name, seed=g, grounds=(g,)) for name, g in (("dark", 90), ("bright", 130))}

    def between(judged_subject):
        cases = {name: court.Case.open(judged_subject, world, seed=0) for name, world in worlds.items()}
        return court.across(cases, seed=0)

    shared, apart = between(judge_world.honest()), between(judge_world.scene_bound())
    assert shared["swap"]["lowest"] > 0.8 and apart["swap"]["lowest"] < -0.8
    assert np.diag(apart["swap"]["matrix"]).min() > 0.8
    assert shared["overlap"]["lowest"] > 0.7 and shared["overlap"]["names"] == ["dark", "bright"]
    one = court.across({"dark": court.Case.open(judge_world.honest(), worlds["dark"], seed=0)}, seed=0)
    assert "one dataset only" in one["overlap"][KEY] and "one dataset only" in one["swap"][KEY]
