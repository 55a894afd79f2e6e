"""Observations under anyone's names become ours, or are refused by name."""

import numpy as np
import pytest
from fake_policy import FakePolicy, image

from lapa_jax import errors

WHY = "the server is not installed (extra [serve])"
fields = pytest.importorskip("lapa_jax.serving.fields", reason=WHY)
failures = pytest.importorskip("lapa_jax.serving.failures", reason=WHY)

PLAIN = FakePolicy().metadata
TWO = FakePolicy(cameras=("image", "wrist"), proprio_dim=2, history=2).metadata
STATE = np.float64([0.5, 1.5])


def of(message, metadata=PLAIN, names=None, **kwargs):
    return fields.Fields(metadata, names or {}, max_pixels=10_000).of(message, **kwargs)


@pytest.mark.parametrize(
    "message",
    [
        {"image": image(1), "instruction": "push"},
        {"observation/image": image(1), "prompt": "push"},
        {"observation": {"image": image(1)}, "prompt": "push"},
        {"observation/image": image(1), "observation/wrist_image": image(2), "state": STATE, "prompt": "push"},
        {"images": {"cam_high": image(1)}, "state": STATE, "task_description": "push"},
        {"full_image": image(1), "wrist_image": image(2), "state": STATE, "task_description": "push"},
    ],
)
def test_names_of_openpi_and_openvla_are_known_and_what_the_policy_lacks_is_left_out(message):
    found = of(message)
    assert found.keys() == {"image", "instruction"} and found["instruction"] == "push"
    np.testing.assert_array_equal(found["image"], image(1))


def test_a_policy_with_more_inputs_gets_them():
    sent = {"observation/image": image(1), "observation/wrist_image": image(2), "observation/state": STATE}
    found = of({**sent, "prompt": "push", "seed": 3}, TWO)
    np.testing.assert_array_equal(found["wrist"], image(2))
    np.testing.assert_array_equal(found["proprio"], np.float32(STATE))
    assert found["proprio"].dtype == np.float32 and found["seed"] == 3


def test_latents_of_the_last_answer_come_back_to_a_policy_that_reads_them():
    sent = {"image": image(1), "wrist": image(2), "prompt": "push", "last_latents": [3, 4]}
    assert of(sent, TWO)["last_latents"].tolist() == [3, 4]
    assert "last_latents" not in of({"image": image(1), "prompt": "push", "last_latents": [3, 4]})


def test_its_own_names_come_before_those_of_others():
    metadata = FakePolicy(cameras=("image_primary",)).metadata
    assert "image_primary" in of({"image_primary": image(), "instruction": ""}, metadata)


def test_names_of_the_config_come_first():
    names = {"image": "wrist", "view": "image", "depth": ""}
    found = of({"image": image(2), "view": image(1), "depth": STATE, "prompt": ""}, TWO, names)
    np.testing.assert_array_equal(found["wrist"], image(2))
    np.testing.assert_array_equal(found["image"], image(1))
    with pytest.raises(errors.UserError, match="view=front, but this policy takes instruction, image"):
        of({}, names={"view": "front"})


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image": None}, "image is NoneType: give an array"),
        ({"image": image().tolist()}, "image is list"),
        ({"image": image().astype(np.float32)}, r"image is float32\[16, 16, 3\]"),
        ({"image": image()[None]}, r"uint8\[1, 16, 16, 3\]"),
        ({"image": image()[..., :1]}, r"uint8\[16, 16, 1\]"),
        ({"image": np.zeros((3, 16, 16), np.uint8)}, "channels come last"),
        ({"image": np.zeros((0, 16, 3), np.uint8)}, r"uint8\[0, 16, 3\]"),
        ({"image": np.zeros((200, 200, 3), np.uint8)}, "at most 10000 pixels"),
        ({"instruction": b"push"}, "instruction is bytes: give text"),
        ({"instruction": ["push"]}, "instruction is list"),
        ({"instruction": "x" * 5000}, "5000 characters"),
        ({"instruction": "half \ud800"}, "not valid Unicode"),
        ({"proprio": [1.0]}, r"proprio is float64\[1\]: give 2 numbers"),
        ({"proprio": ["a", "b"]}, "give 2 numbers"),
        ({"proprio": [[1], [1, 2]]}, "give 2 numbers"),
        ({"proprio": [True, False]}, r"proprio is bool\[2\]"),
        ({"proprio": [0.0, np.nan]}, "NaN"),
        ({"proprio": [0.0, 1e300]}, "infinity"),
        ({"last_latents": [1.5, 2.0]}, r"last_latents is float64\[2\]"),
        ({"last_latents": [[1, 2]]}, r"last_latents is int64\[1, 2\]"),
        ({"last_latents": [2**40]}, "give the latents of the last answer"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": True}, "seed is True"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"imagee": image()}, "'imagee' is no field of this policy, which takes instruction, image, wrist"),
        ({"observation/image": image()}, "gives 'image' a second time"),
        ({5: image()}, "5 is no name of a field"),
    ],
)
def test_what_is_wrong_is_named(changes, message):
    good = {"image": image(), "wrist": image(), "instruction": "push", "proprio": [1, 2]}
    of(good, TWO)
    with pytest.raises(failures.Failure, match=message) as caught:
        of(good | changes, TWO)
    assert caught.value.code == "bad_observation"


@pytest.mark.parametrize("name", ["image", "wrist", "instruction"])
def test_what_is_missing_is_named(name):
    good = {"image": image(), "wrist": image(), "instruction": "push"}
    with pytest.raises(failures.Failure, match=f"'{name}' is missing"):
        of({key: value for key, value in good.items() if key != name}, TWO)


def test_a_state_for_a_policy_without_one_is_an_error_under_our_name_only():
    with pytest.raises(failures.Failure, match="trained without proprio"):
        of({"image": image(), "instruction": "", "proprio": [1]})


@pytest.mark.parametrize("message", [None, [], "text", 5, image()])
def test_only_maps_are_observations(message):
    with pytest.raises(failures.Failure, match="an observation is a map of instruction, image"):
        of(message)
