"""What tests of folders of Hugging Face share."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file

from lapa_jax.convert.hugging_face import WEIGHTS


@pytest.fixture
def copy(request, tmp_path):
    """(golden, change(weights) -> weights, **config) -> a folder with other weights and another config.

    A golden is a folder under the module's GOLD.
    """

    def make(name, change=lambda weights: weights, **config):
        folder = tmp_path / f"{name}_{len(list(tmp_path.iterdir()))}"
        shutil.copytree(request.module.GOLD / name, folder)
        old = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(old | config))
        if (folder / WEIGHTS).exists():
            save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)
        return folder

    return make
