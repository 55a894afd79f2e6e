"""The published LAPA from its own files, end to end: files of the official code in, its recorded answers out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
GOLD = ROOT.parent / "shared" / "gold"
pytestmark = pytest.mark.skipif(not GOLD.is_dir(), reason="no ../shared/gold: the recorded files are not there")
TASK = "take the broccoli out of the pot"  # of the recorded prompt


def run(program, *flags):
    command = [sys.executable, str(ROOT / "experiments" / f"{program}.py"), *map(str, flags)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Flags for the recorded model, its image as a file, and the folder they are in."""
    folder = tmp_path_factory.mktemp("lapa")
    done = run("convert_vqgan", f"--official={GOLD / 'vqgan' / 'vqgan'}", f"--workdir={folder / 'vqgan'}")
    assert done.returncode == 0, done.stderr
    with np.load(GOLD / "vlm" / "generate_delta.npz") as z:
        Image.fromarray(z["image_u8"]).save(folder / "image.png")
    parts = [GOLD / "vlm" / name for name in ("params", "params_action_heads_only")]
    (folder / "finetuned").write_bytes(b"".join(part.read_bytes() for part in parts))
    flags = [f"--vqgan={folder / 'vqgan'}", f"--image={folder / 'image.png'}", "--num_heads=4"]
    flags += [f"--tokenizer={GOLD / 'vlm' / 'tokenizer.model'}", "--dtype=float32", "--rope=exact"]
    return folder, flags


@pytest.fixture(scope="module")
def recorded():
    with np.load(GOLD / "vlm" / "generate_delta.npz") as z:
        return dict(z)


def test_image_and_instruction_to_the_recorded_latents(files, recorded):
    folder, flags = files
    done = run("run_lapa", f"--params={GOLD / 'vlm' / 'params'}", f"--instruction={TASK}", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    expected = recorded["e2e_tokens"][0]
    stop = int(np.argmax(expected == 2)) + 1 if 2 in expected else 4  # where the official sampler stops
    assert row["ids"][:stop] == expected[:stop].tolist() and len(row["ids"]) == 4


def test_a_finetuned_checkpoint_gives_actions_within_its_bins(files):
    folder, flags = files
    bins = GOLD / "action" / "bins_16.csv"
    more = ["--ids=action", f"--bins={bins}", "--temperature=1", "--instruction=a", "--instruction=b", flags[1]]
    done = run("run_lapa", f"--params={folder / 'finetuned'}", *flags, *more)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert len(found) == 2
    for row in found:
        assert len(row["ids"]) == len(row["action"]) == 7 and row["action"][6] in (0.0, 1.0)
        assert max(row["ids"]) < 16


@pytest.mark.parametrize(
    "change, message",
    [
        (["--num_heads=7"], "width is 64"),
        (["--image=nothing.png"], "nothing.png"),
        (["--instruction=a", "--instruction=b", "--instruction=c"], "1 images and 3 instructions"),
        ([f"--bins={GOLD / 'action' / 'bins_16.csv'}"], "--bins is for --ids=action"),
        (["--ids=action"], "action"),
    ],
    ids=lambda value: None if isinstance(value, str) else value[0],
)
def test_what_does_not_fit_is_named(files, change, message):
    _, flags = files
    if change[0].startswith("--image"):
        flags = [flag for flag in flags if not flag.startswith("--image")]
    if not change[0].startswith("--instruction"):
        change = [*change, "--instruction=a"]
    done = run("run_lapa", f"--params={GOLD / 'vlm' / 'params'}", *flags, *change)
    assert done.returncode == 2 and message in done.stderr, done.stderr
