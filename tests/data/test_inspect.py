"""The dataset card on a terminal, as JSON and as a page, for each form of data and each mistake."""

import html.parser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import make_lerobot
import make_robot
import numpy as np
import pytest

from lapa_jax.data import inspect, transforms
from lapa_jax.data.card import contents as card
from lapa_jax.data.card import page as card_page
from lapa_jax.data.card import text as card_text

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
BRIDGE = SHARED / "bridge_dataset"


@pytest.fixture
def run(tmp_path, capsys):
    """(*arguments) -> (exit status, stdout, stderr) of the program."""

    def call(*arguments):
        status = inspect.main([*map(str, arguments), "--cache", str(tmp_path / "cache")])
        return status, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def robot_folder(tmp_path_factory):
    """A dataset in which nothing is wrong; read it only."""
    return make_robot.write(tmp_path_factory.mktemp("robot"), make_robot.robot())


class Page(html.parser.HTMLParser):
    """Every tag of a page, its text, and whether all tags are closed in order."""

    VOID = ("meta", "link", "img", "br", "rect")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID or (tag == "rect" and dict(attributes).get("class") == "bar"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, name):
        return sum(tag == name for tag, _ in self.tags)


def test_the_card_tells_what_is_there(robot_folder, run):
    status, out, err = run(robot_folder)
    assert status == 0 and not err
    assert "in use      train: 12 episodes, 1200 steps, 0.06667 hours" in out
    assert re.search(r"^train +12 +1200 +0\.06667$", out, re.M) and re.search(r"^val +2 +200 ", out, re.M)
    assert re.search(r"^image_wrist +16 x 16 +0 of 64 +observation/image_wrist$", out, re.M)
    assert re.search(r"^action \(standard\) +float32\[4\] a step: action$", out, re.M)
    assert "instructions: 3 distinct, missing in 0 of 12 episodes" in out
    assert out.rstrip().endswith("findings: 0 errors, 0 warnings, 0 notes")
    (gripper,) = re.findall(r"^dimension 3 .*$", out, re.M)
    actions = np.concatenate(make_robot.robot().action)[:, 3]
    assert f"{actions.mean():.4g}" in gripper.split()


def test_json_holds_the_same(robot_folder, run, tmp_path):
    assert run(robot_folder, "--json", tmp_path / "made" / "card.json")[0] == 0
    found = json.loads((tmp_path / "made" / "card.json").read_text())
    assert (found["episodes"], found["steps"], found["rate_hz"]) == (12, 1200, 5.0)
    assert found["common_instructions"] == {"push the block": 4, "open the drawer": 4, "wipe the table": 4}
    rows = np.concatenate(make_robot.robot().action)
    np.testing.assert_allclose(found["statistics"]["action"]["mean"], rows.mean(0), atol=1e-6)
    assert found["pairs"] == {"gap": "0.6 s", "sampled": 128, "static": 0} and found["findings"] == []


def test_json_has_null_for_what_is_no_number(tmp_path, run):
    toy = make_robot.robot(3, 10)
    for rows in toy.action:
        rows[:, 0] = np.nan
    assert run(make_robot.write(tmp_path, toy), "--json", tmp_path / "card.json")[0] == 0
    found = json.loads((tmp_path / "card.json").read_text(), parse_constant=pytest.fail)
    assert found["statistics"]["action"]["mean"][0] is None


def test_the_page_is_one_file_with_frames_pairs_and_histograms(robot_folder, run, tmp_path):
    assert run(robot_folder, "--html", tmp_path / "card.html")[0] == 0
    text = (tmp_path / "card.html").read_text()
    page = Page(text)
    assert not page.open
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 12 * 3 + 2 * 8 + 9 * 3
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in images)
    assert page.count("svg") == 4 + 3
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)|url\(|@import|<script""", text)
    assert "prefers-color-scheme: dark" in text
    for word in ("toy_robot", "push the block", "dimension 3", "0.6 s apart"):
        assert word in page.text


def test_what_a_dataset_says_is_text_and_no_markup(tmp_path, run):
    toy = make_robot.robot(3, 10)
    toy.instructions = ["<script>alert(1)</script>", 'a & b "c"', ""]
    assert run(make_robot.write(tmp_path, toy), "--html", tmp_path / "card.html")[0] == 0
    text = (tmp_path / "card.html").read_text()
    assert "<script" not in text
    assert "<script>alert(1)</script>" in Page(text).text and 'a & b "c"' in Page(text).text


def test_the_page_shows_what_cannot_be_decoded_or_drawn(tmp_path, run):
    toy = make_robot.robot(3, 10)
    toy.cut(0, 1)
    toy.image_primary = [[frame[:40] for frame in frames] for frames in toy.image_primary]
    toy.action[1][0, 0] = 50
    toy.action[2][:, 1] = np.nan
    for rows in toy.proprio:
        rows[:] = 0
    status, out, _ = run(make_robot.write(tmp_path, toy), "--html", tmp_path / "card.html")
    assert status == 0
    keys = set(re.findall(r"^  (?:error|warning|note) +(\w+)", out, re.M))
    assert keys == {"undecodable", "short", "not_finite", "near_constant", "few_rows"}
    page = Page((tmp_path / "card.html").read_text())
    assert not page.open and "not decodable" in page.text and "Near-constant and not drawn" in page.text


def test_outliers_are_counted_and_do_not_squeeze_the_histogram(tmp_path, run):
    toy = make_robot.robot()
    toy.action[1][0, 0] = 50
    assert run(make_robot.write(tmp_path, toy), "--html", tmp_path / "card.html")[0] == 0
    text = Page((tmp_path / "card.html").read_text()).text
    assert re.search(r"outliers: 1, as far as -0\.\d+\.\.50", text)
    assert len(re.findall(r"\d+, [\d.]+ %", text.split("rare values show")[1].split("dimension 1")[0])) > 20


def test_other_splits_gaps_and_rates(tmp_path, run):
    toy = make_robot.robot()
    toy.rate = None
    folder = make_robot.write(tmp_path, toy, {"train": range(12)})
    _, out, _ = run(folder)
    assert "train: 11 episodes, 1100 steps, ? hours (held out of the stored split: 1 episodes)" in out
    assert "pairs       one step apart" in out and "entry       toy_robot, inferred from the features" in out
    _, out, _ = run(folder, "--split", "val", "--rate", 10, "--gap", 1.5)
    assert "val: 1 episodes, 100 steps, 0.002778 hours" in out and "pairs       1.5 s apart" in out


def test_splits_whose_files_were_not_fetched_are_listed(tmp_path, run):
    folder = make_robot.write(tmp_path, make_robot.robot(4, 10), {"train": range(4), "test": range(2)})
    next(folder.glob("*test*")).unlink()
    status, out, _ = run(folder)
    assert status == 0 and re.search(r"^test +2 +\? +\?$", out, re.M)


def test_lerobot_and_videos_are_decoded_first(tmp_path, run):
    source = make_lerobot.write(tmp_path / "toy", "v2.1", make_lerobot.toys())
    status, out, _ = run(source)
    assert status == 0 and f"LeRobot v2.1 at {source}, decoded to RLDS" in " ".join(out.split())
    assert re.search(r"^image_primary +256 x 256", out, re.M)
    assert re.search(r"^action \(standard\) +float32\[2\] a step: action$", out, re.M)
    clip = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 3), np.uint8)
    for i in range(3):
        make_lerobot.write_video(tmp_path / "videos" / f"{i}.mp4", clip, 10)
    status, out, _ = run(tmp_path / "videos")
    assert status == 0 and "videos at" in out and "3 distinct" not in out
    assert "missing in" in out and "warning  instructions" in out


def test_frames_in_folders_need_a_rate(tmp_path, run):
    for i in range(3):
        (tmp_path / "frames" / str(i)).mkdir(parents=True)
        for step in range(12):
            image = np.random.default_rng(step).integers(0, 256, (32, 32, 3), np.uint8)
            (tmp_path / "frames" / str(i) / f"{step}.png").write_bytes(transforms.encode_png(image))
    status, out, err = run(tmp_path / "frames")
    assert status == 2 and not out and "rate" in err
    assert run(tmp_path / "frames", "--rate", 10)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such/folder"], "no dataset at /no/such/folder"),
        (["FOLDER", "--split", "all_of_it"], "no split 'all_of_it'"),
        (["FOLDER", "--name", "no_such_entry"], "no dataset 'no_such_entry' in the table"),
        (["UNKNOWN", "--name", "bridge_dataset"], "bridge_dataset: no observation/image_0"),
        (["FOLDER", "--gap", "0"], "data.gap 0.0 s"),
        (["FOLDER", "--rate", "-3"], "--rate -3.0 is no number"),
        (["FOLDER", "--rate", "fast"], "invalid float value: 'fast'"),
        (["FOLDER", "--unknown"], "unrecognized arguments: --unknown"),
        (["FOLDER", "--html", "/proc/no/card.html"], "cannot write /proc/no/card.html"),
        ([], "required: DIR"),
    ],
)
def test_mistakes_end_in_one_line(arguments, message, robot_folder, run, tmp_path):
    toy = make_robot.robot(2, 4)
    toy.rate = None
    folders = {"FOLDER": robot_folder, "UNKNOWN": make_robot.write(tmp_path, toy)}
    status, _, err = run(*(folders.get(a, a) for a in arguments))
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_the_program_runs_by_its_name(robot_folder, tmp_path):
    command = [sys.executable, "-m", "lapa_jax.data.inspect", str(robot_folder), "--cache", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "12 episodes" in done.stdout and not done.stderr
    read, write = os.pipe()
    os.close(read)  # as head does when it has seen enough
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 0 and not done.stderr
    done = subprocess.run([*command, "--split", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


@pytest.mark.skipif(not BRIDGE.exists(), reason="../shared/data/bridge_dataset is not here")
def test_the_bridge_sample(tmp_path):
    made = card.make(str(BRIDGE), "train", cache=str(tmp_path))
    found = made.to_json()
    assert (found["episodes"], found["splits"]["train"]["steps"], found["steps"]) == (25, 250, 200)
    assert (found["rate_hz"], found["distinct_instructions"], found["missing_instructions"]) == (5, 4, 0)
    assert found["statistics"]["action"]["names"] == ["dx", "dy", "dz", "droll", "dpitch", "dyaw", "gripper"]
    assert found["entry"]["origin"] == "of the table"
    (empty,) = (finding for finding in found["findings"] if finding["level"] != "note")
    assert empty["key"] == "empty" and empty["message"].startswith("image_3: 64 of 64 sampled frames")
    assert re.search("^train +25 +250 +0.01389$", card_text.render(made), re.M)
    assert Page(card_page.render(made)).count("img") == 12 * 3 + 4 * 8 + 9 * 3


@pytest.mark.skipif(not BRIDGE.exists(), reason="../shared/data/bridge_dataset is not here")
def test_a_damaged_bridge_record_is_on_its_card(tmp_path):
    folder = Path(shutil.copytree(BRIDGE / "1.0.0", tmp_path / "bridge"))
    shard = next(folder.glob("*train*"))
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    made = card.make(str(folder), "train", cache=str(tmp_path / "cache"))
    assert len(made.episodes) == 24 and made.findings[0].key == "damaged"
    assert "left out or cut short: 1" in made.findings[0].message and shard.name in made.findings[0].message
