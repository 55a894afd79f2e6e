"""finetune with other heads: what is trained, what the folder holds, and what is refused."""

import numpy as np
import pytest

from lapa_jax import checkpoints, errors, policy


def params(folder):
    stored = checkpoints.ocp.load_checkpointables(checkpoints.resolve(folder), {"state": None})["state"]["params"]
    return {"/".join(path): leaf for path, leaf in flat(stored)}


def flat(tree, before=()):
    for key, value in tree.items():
        yield from flat(value, (*before, key)) if isinstance(value, dict) else [((*before, key), np.asarray(value))]


@pytest.fixture
def finetune(run_program, tiny_run, tabletop_dataset, tmp_path):
    vlm = tiny_run("pretrain_vlm")

    def run(**changes):
        given = {"vlm": str(vlm), "data.directory": str(tabletop_dataset)} | changes
        run_program("finetune", tmp_path / "run", **given)
        return tmp_path / "run", {f"planner/{name}": leaf for name, leaf in params(vlm).items()}

    return run


def test_bins_beside_thin_matrices_and_the_robots_state(finetune):
    """A VLM without a table of actions and without LoRA gets both; its own weights stay as they were."""
    changes = {"head.kind": "bins", "head.bins": 4, "tune": "lora", "lora.rank": 2, "data.proprio": True}
    folder, before = finetune(**changes)
    after = params(folder)
    new = {name for name in after if name not in before}
    assert {"planner/embed_action/embedding", "planner/head_action/kernel"} <= new
    assert any(name.endswith("lora_b") and np.abs(after[name]).max() > 0 for name in new)
    for name, leaf in before.items():
        np.testing.assert_array_equal(after[name], leaf, err_msg=name)
    driver = policy.Policy.from_checkpoint(folder)
    assert driver.metadata["proprio_dim"] == 2 and driver.metadata["action_space"]["names"] == ["dx", "dy"]
    image = np.zeros((64, 64, 3), np.uint8)
    found = driver.infer({"image": image, "instruction": "push it", "proprio": [0.0, 0.1]})["actions"]
    middles = driver.task.bins.decode(np.arange(4)[:, None].repeat(2, 1)).astype(np.float32)
    assert found.shape == (4, 2) and all(np.isin(found[:, d], middles[:, d]).all() for d in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["features", "l1", "flow"])
def test_every_head_ends_as_a_policy(finetune, kind):
    folder, _ = finetune(**{"head.kind": kind, "tune": "all"})
    driver = policy.Policy.from_checkpoint(folder)
    found = driver.infer({"image": np.zeros((64, 64, 3), np.uint8), "instruction": "push it"})
    assert found["actions"].shape == (4, 2) and np.isfinite(found["actions"]).all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"head.kind": "mystery"}, "no head 'mystery'"),
        ({"tune": "some"}, "no tune='some'"),
        ({"history": 2, "head.kind": "l1"}, "plans no latents"),
        ({"data.cameras": ("image_wrist",)}, "no camera 'image_wrist'"),
        ({"head.kind": "bins", "head.bins_file": "nowhere.csv"}, "cannot read nowhere.csv"),
        ({"head.kind": "bins", "head.gripper": True}, "gripper, is .*: it has to be 0 or 1"),
    ],
)
def test_what_does_not_fit_is_named(finetune, changes, message):
    with pytest.raises(errors.UserError, match=message):
        finetune(**changes)
