"""The page and the JSON."""

import json
import re

import judge_world
import numpy as np
import pytest

from lapa_jax.errors import UserError
from lapa_jax.evaluation.judge import court, lines, pictures, report, verdicts


@pytest.fixture(scope="module")
def two():
    """Results and pictures of a subject with codes on two datasets."""
    worlds = {n: judge_world.make(n, episodes=6, seed=i) for i, n in enumerate(("one", "a <b>& two"))}
    cases = {n: court.Case.open(judge_world.honest(), w, seed=0) for n, w in worlds.items()}
    results = {"datasets": {n: case.results() for n, case in cases.items()}, "across": court.across(cases, 0)}
    return results, {n: pictures.take(case) for n, case in cases.items()}


def write(folder, results, shown, config):
    found = verdicts.verdicts(results, config.thresholds, config.skip)
    report.write(folder, {"facts": {"LAQ": "a run"}}, results, found, shown)
    return found, (folder / "judge.html").read_text(), json.loads((folder / "judge.json").read_text())


def test_the_page_is_one_file_with_every_line_and_dataset(two, tmp_path, load_config):
    found, html, data = write(tmp_path, *two, load_config("evaluate_laq"))
    assert not re.search(r'(src|href)="(?!data:|#)', html) and "<script" not in html
    assert all(line.title in html for line in lines.LINES if line.only != "features")
    assert "a &lt;b&gt;&amp; two" in html and "a <b>" not in html
    assert html.count("badge pass") == sum(v.status == verdicts.PASS for v in found) > 20
    assert html.count('class="code"') == 2 * min(pictures.MAX_CODES, judge_world.NUM_CODES)
    assert "Across datasets" in html and "Codes of the dataset in the row" in html
    assert sum(data["verdict"].values()) == len(found) == len(data["lines"])
    assert data["lines"][0].keys() >= {"name", "value", "comparison", "threshold", "status", "why", "reason"}


def test_pictures_of_a_swap_show_what_was_decoded(two):
    swaps = two[1]["one"].swaps
    assert swaps["b_moved"].dtype == np.uint8 and swaps["motion"].shape[1:] == (2, 2)
    moved = [
        judge_world.find(b) - judge_world.find(a) for a, b in zip(swaps["b_first"], swaps["b_moved"], strict=True)
    ]
    wanted = [
        judge_world.find(b) - judge_world.find(a) for a, b in zip(swaps["a_first"], swaps["a_later"], strict=True)
    ]
    np.testing.assert_array_equal(moved, wanted)


def test_a_continuous_subject_of_features_without_truth_has_a_page_too(tmp_path, load_config):
    subject = judge_world.of_features(judge_world.continuous())
    case = court.Case.open(subject, judge_world.make(truth=False, episodes=6), seed=0)
    results = {"datasets": {"video": case.results()}, "across": court.across({"video": case}, 0)}
    _, html, data = write(tmp_path, results, {"video": pictures.take(case)}, load_config("evaluate_laq"))
    assert "the quantiser is continuous and has no codes" in html and "NOT MEASURED" in html
    assert data["verdict"]["NOT MEASURED"] >= 5


def test_a_line_may_be_left_out(two, tmp_path, load_config):
    _, _, data = write(tmp_path, *two, load_config("evaluate_laq", skip=("swap",)))
    assert (
        "swap" not in {line["name"] for line in data["lines"]} and data["datasets"]["one"]["swap"]["cosine"] > 0.5
    )
    with pytest.raises(UserError, match="no line 'swop'"):
        write(tmp_path, *two, load_config("evaluate_laq", skip=("swop",)))
