import html.parser
import io
import json
import re
import shutil
from pathlib import Path

import fake_run
import numpy as np
import pytest
from PIL import Image

from lapa_jax.errors import UserError
from lapa_jax.evaluation import figures, gifs, headline, report, run_folder

FETCHING = {"src", "href", "xlink:href", "srcset", "data", "poster", "action"}


class Page(html.parser.HTMLParser):
    """Collects what a browser would fetch, the elements and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [(tag, value) for name, value in attrs if name in FETCHING]

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return fake_run.write(tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture(scope="module")
def whole_page(whole_run):
    return report.write_report(whole_run).read_text(encoding="utf-8")


def _copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "run"))


def _edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_page_fetches_nothing(whole_page):
    page = Page(whole_page)
    images = [link for tag, link in page.links if tag == "img"]
    assert len(images) > 60 and all(link.startswith("data:image/") for link in images)
    assert all(link.startswith(("data:", "#")) for _, link in page.links)
    assert not re.search(r"https?://|@import|url\((?!#)", whole_page)
    assert "script" not in page.tags and "iframe" not in page.tags


def test_local_references_resolve_once(whole_page):
    ids = re.findall(r'\bid="([^"]+)"', whole_page)
    assert len(ids) == len(set(ids))
    wanted = re.findall(r'href="#([^"]+)"', whole_page) + re.findall(r"url\(#([^)]+)\)", whole_page)
    assert wanted and set(wanted) <= set(ids)


def test_charts_follow_the_theme(whole_page):
    assert whole_page.count('<svg class="chart"') == 4
    assert not re.search(r"#0[1-7]0[1-7]0[1-7]", whole_page)
    assert "prefers-color-scheme:dark" in whole_page


def test_a_whole_run_shows_its_numbers(whole_page):
    text = Page(whole_page).text
    assert "6 of 6 targets met" in text and "not run yet" not in text
    for shown in ("7 / 8", "49 %", "R² 0.71", "58 %", "67 % [54, 77]", "16 min 49 s", "make demo"):
        assert shown in text
    assert "never used" in text and whole_page.count("data:image/gif") == 2


@pytest.mark.parametrize("stages", [(), ("laq",), ("laq", "vlm"), ("vlm", "finetune")])
def test_a_partial_run_says_what_is_missing(tmp_path, stages):
    run = fake_run.write(tmp_path / "run", stages)
    text = Page(report.write_report(run).read_text(encoding="utf-8")).text
    assert "Closed-loop evaluation: not run yet" in text
    assert ("code gallery: not run yet" in text) == ("laq" not in stages)
    assert ("Stage 2: latent pretraining: not run yet" in text) == ("vlm" not in stages)


def test_text_from_the_run_is_escaped(whole_run, tmp_path):
    run = _copy(whole_run, tmp_path)
    evil = "<script>alert('x')</script> & \"y\""
    stages = [{"name": evil, "seconds": 1}]
    _edit(run / "run.json", command=evil, machine=evil, size=evil, stages=stages)
    _edit(run / "laq" / "config.json", note=evil)
    results = fake_run.results()
    results["gifs"]["success"]["instruction"] = evil
    results["policies"][evil] = results["policies"].pop("expert")
    results["policies"]["lapa"]["families"][evil] = {"successes": 1, "trials": 2}
    _edit(run / "evaluation" / "results.json", **results | {"split": evil})
    page = Page(report.write_report(run).read_text(encoding="utf-8"))
    assert "script" not in page.tags and page.text.count(evil) >= 7


def test_a_film_outside_the_folder_is_not_read(whole_run, tmp_path):
    run = _copy(whole_run, tmp_path)
    (tmp_path / "secret.gif").write_bytes(b"secret")
    _edit(run / "evaluation" / "results.json", gifs={"success": {"file": "../../secret.gif"}})
    assert "data:image/gif" not in report.write_report(run).read_text(encoding="utf-8")


def test_missed_and_undecided_targets_are_told_apart(whole_run, tmp_path):
    run = _copy(whole_run, tmp_path)
    poor = {"codes_used": 5, "improvement": 0.29, "control_r2": {"mean": 0.8}}
    _edit(run / "laq" / "summary.json", **poor)
    _edit(run / "vlm" / "summary.json", blank_accuracy=0.58)
    results = fake_run.results()
    results["policies"]["scratch"]["all"]["successes"] = 34
    _edit(run / "evaluation" / "results.json", **results)
    statuses = [check.status for check in headline.checks(run_folder.read(run))]
    assert statuses == ["fail", "fail", "fail", "fail", "pass", "open"]


def test_nan_and_torn_lines_do_not_stop_the_report(whole_run, tmp_path):
    run = _copy(whole_run, tmp_path)
    _edit(run / "laq" / "summary.json", perplexity=float("nan"))
    with open(run / "laq" / "metrics.jsonl", "a") as file:
        file.write('{"step": 9999, "split": "train", "loss": NaN}\n{"step": 10')
    assert "perplexity n/a" in report.write_report(run).read_text(encoding="utf-8")


def test_damaged_and_absent_folders_are_named(tmp_path):
    with pytest.raises(UserError, match="no run folder"):
        report.write_report(tmp_path / "absent")
    run = fake_run.write(tmp_path / "run", ("laq",))
    (run / "laq" / "summary.json").write_text("{")
    with pytest.raises(UserError, match="summary.json"):
        report.write_report(run)


def test_png_enlarges_without_smoothing():
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(figures.png(image, scale=3))))
    np.testing.assert_array_equal(shown, image.repeat(3, axis=0).repeat(3, axis=1))


def test_difference_is_dark_where_images_agree():
    a = np.zeros((4, 4, 3), np.uint8)
    b = a.copy()
    b[0, 0] = 200
    heat = figures.difference(a, b).sum(axis=-1)
    assert heat[0, 0] > 500 and heat[1:].max() < 20


def test_compass_points_right_and_up():
    drawing = figures.compass(np.array([[0.03, 0.03]]), np.zeros((1, 2)), reach=0.06)
    x, y = map(float, re.search(r'tip" d="M(\S+) ([^L]+)L', drawing).groups())
    assert x == pytest.approx(39) and y == pytest.approx(-39)  # SVG's y axis points down
    assert figures.compass_reach(np.array([[0.03, 0.04], [np.nan, np.nan]])) == pytest.approx(0.05)


def test_gif_keeps_frames_speed_and_caption(tmp_path):
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[0], frames[1], frames[2] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    plain = Image.open(gifs.write_gif(tmp_path / "a" / "plain.gif", frames, scale=4, fps=10))
    assert (plain.n_frames, plain.size, plain.info["duration"]) == (3, (64, 64), 100)
    captioned = Image.open(gifs.write_gif(tmp_path / "b.gif", frames, caption="push the red cube"))
    assert captioned.width == 64 and captioned.height > 64
    captioned.seek(1)
    assert captioned.convert("RGB").getpixel((5, 5)) == (0, 255, 0)
    with pytest.raises(UserError, match="uint8"):
        gifs.write_gif(tmp_path / "c.gif", frames.astype(np.float32))


def test_imagined_video_is_shown_with_how_far_it_holds(whole_page, whole_run, tmp_path):
    section = re.search(r'<section id="imagined">(.*?)</section>', whole_page, re.S)[1]
    assert section.count("<img") == 1 and "27.1" in section and "first frame kept" in section
    (partial := _copy(whole_run, tmp_path)).joinpath("rollouts", "rollouts.json").unlink()
    assert "Latent rollouts: not run yet" in report.write_report(partial).read_text(encoding="utf-8")
