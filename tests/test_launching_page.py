"""docs/launching.md: its commands name a program and keys that there are."""

import re

import pages

from lapa_jax import checkpoints

PAGE = pages.read("launching.md")


def test_commands_and_keys_are_known(load_config):
    keys = checkpoints.flatten(load_config("pretrain_vlm", "base").to_dict())
    named = set(re.findall(r"--config\.([\w.]+)=", PAGE)) | set(re.findall(r"`(distributed\.\w+)`", PAGE))
    assert len(named) > 6 and named <= keys.keys(), named - keys.keys()
    assert {key for key in keys if key.startswith("distributed.")} <= named
    assert all((pages.ROOT / path).exists() for path in re.findall(r"experiments/[\w/]+\.py", PAGE))
    assert all(hasattr(checkpoints, name) for name in re.findall(r"checkpoints\.(load_\w+)\(", PAGE))
