"""One door for frozen towers: folders and files, and what a path is instead."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.convert import hugging_face, imagebind, torch_zip, towers

GOLD = pathlib.Path(__file__).parents[1] / "models" / "gold_vision"
IMAGEBIND = GOLD / "imagebind" / "imagebind.pth"


def assert_same(one, other):
    assert one[0] == other[0] and jax.tree.structure(one[1]) == jax.tree.structure(other[1])
    jax.tree.map(np.testing.assert_array_equal, one[1], other[1])


@pytest.mark.parametrize("name", ["dinov3", "siglip", "siglip2_whole", "clip_whole"])
def test_folders_of_hugging_face(name):
    assert_same(towers.load_tower(GOLD / name, "bfloat16"), hugging_face.load_tower(GOLD / name, "bfloat16"))


@pytest.mark.parametrize("name", ["imagebind.pth", "weights"])
def test_the_file_of_imagebind_by_any_name(name, tmp_path):
    path = shutil.copy(IMAGEBIND, tmp_path / name)
    assert_same(towers.load_tower(str(path), "bfloat16"), imagebind.load(IMAGEBIND, "bfloat16"))


def test_siglip_2_of_a_fixed_size_comes_as_siglip(tmp_path):
    """Its folders hold both encoders, and a config that is as brief as their makers left it."""
    folder = shutil.copytree(GOLD / "siglip", tmp_path / "siglip2-base-patch16-256")
    config = json.loads((folder / "config.json").read_text())
    usual = dict(num_channels=3, layer_norm_eps=1e-6, hidden_act="gelu_pytorch_tanh")
    vision = {key: value for key, value in config["vision_config"].items() if usual.get(key) != value}
    assert len(vision) < len(config["vision_config"])
    brief = dict(architectures=["SiglipModel"], model_type="siglip", vision_config=vision)
    brief["text_config"] = dict(model_type="siglip_text_model", vocab_size=256000)
    (folder / "config.json").write_text(json.dumps(brief))
    assert_same(towers.load_tower(folder), hugging_face.load_tower(GOLD / "siglip"))


def make(kind, folder):
    """A path of this kind, and what is said of it."""
    folder.mkdir()
    if kind == "nothing":
        return folder / "dinov2-base", "no folder .*dinov2-base.*hf download"
    if kind == "no file":
        return folder / "imagebind_huge.pth", "no file .*imagebind_huge.pth.*download ImageBind"
    if kind == "safetensors":
        return GOLD / "clip" / "model.safetensors", f"give its folder, {GOLD / 'clip'}"
    if kind == "config":
        return GOLD / "clip" / "config.json", f"give its folder, {GOLD / 'clip'}"
    if kind == "folder of a file":
        return IMAGEBIND.parent, f"give the file {IMAGEBIND}"
    if kind == "run":
        (folder / "checkpoints").mkdir()
        (folder / "config.json").write_text('{"model": {"backbone": "conv"}}')
        return folder, "is the folder of a run"
    if kind == "empty":
        return folder, "no .*config.json: not a folder of Hugging Face"
    path = folder / "laq.pt"
    if kind == "another model":
        torch_zip.write(path, {"vq.codebooks": np.ones((2, 2), np.float32)})
        return path, "not ImageBind: .*there is 'vq'"
    path.write_bytes(b"GIF89a")
    return path, "no zip archive, hence no file of torch.save"


KINDS = "nothing, no file, safetensors, config, folder of a file, run, empty, another model, picture".split(", ")


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_path_is_instead(kind, tmp_path):
    path, message = make(kind, tmp_path / "given")
    with pytest.raises(errors.UserError, match=message) as caught:
        towers.load_tower(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
