"""docs/vlm.md: its commands run as they stand there, in their order, on a small dataset and small weights."""

import pathlib
import shutil

import pages
import pytest
import words
from fake_tabletop import WORDS

PAGE = pages.read("vlm.md")
GOLD = pathlib.Path(__file__).parent / "models"
TINY = ("--config.num_steps=2", "--config.batch_size=8", "--config.evaluation.steps=8", "--config.model.size=debug")
BEFORE = (  # runs of stage 1, which the page takes for granted
    "experiments/train_laq.py --config=experiments/configs/train_laq.py:tiny --workdir=runs/mine/laq "
    "--config.data.directory=datasets/my_video",
    "experiments/label_latents.py --config=experiments/configs/label_latents.py:tiny --workdir=runs/mine/latents "
    "--config.laq=runs/mine/laq",
)
TOWER = ("--config.data.image_size=24", "--config.model.remat=none", "--config.model.dtype=float32")
SIZES = {
    "runs/mine/tokenizer": ("--config.num_steps=2", "--config.batch_size=8", "--config.evaluation.frames=8"),
    "runs/mine/ids": ("--config.batch_size=8",),
    "runs/mine/vlm_seen": (*TINY, *TOWER),
    "runs/mine/vlm_qwen": (*TINY, *TOWER),
    "runs/mine/rollouts": ("--config.videos=2", "--config.steps=2"),
    "runs/mine/finetune": ("--config.num_steps=2", "--config.batch_size=8", "--config.data.episodes=2"),
}


def sizes(commands):
    return {name: TINY for name in map(pages.name_of, commands) if "vlm" in name} | SIZES


@pytest.fixture
def folder(tabletop_dataset, tmp_path):
    """A dataset and weights of others under the names of the page."""
    (tmp_path / "datasets").mkdir()
    for name in ("my_video", "my_robot"):
        (tmp_path / "datasets" / name).symlink_to(tabletop_dataset)
    text = tmp_path / "weights" / "qwen3-0.6b"
    shutil.copytree(GOLD / "gold_text" / "qwen3", text)
    words.save(text, WORDS)
    shutil.copytree(GOLD / "gold_vision" / "siglip2_whole", tmp_path / "weights" / "siglip2-base-patch16-256")
    return tmp_path


@pytest.mark.slow
def test_the_page_runs(folder):
    found = pages.commands(PAGE)
    assert SIZES.keys() <= set(map(pages.name_of, found)) and len(found) > 10
    pages.run([*(line.split() for line in BEFORE), *found], folder, sizes(found))
    for command in found:
        assert (folder / pages.name_of(command) / "config.json").exists()
