"""Frames prepared as the published code does."""

import importlib.util

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import official_images

cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed (extra [video])")


def image(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_as_the_official_samplers_prepare_an_image(shared):
    with np.load(shared / "gold" / "vlm" / "generate_delta.npz") as delta:
        found = official_images.squared(delta["image_u8"])
        np.testing.assert_array_equal(found, delta["processed"][0])
    with np.load(shared / "gold" / "vlm" / "generate_action.npz") as action:
        np.testing.assert_array_equal(found, action["processed_aug0"][0])
        np.testing.assert_array_equal(official_images.centre(found), action["processed_aug1"][0])


@pytest.mark.parametrize("shape", [(30, 40), (40, 30), (600, 200), (7, 7), (1, 500)])
def test_any_image_becomes_a_square(shape):
    """The longer side first, then the shorter is stretched: not the same as doing both at once."""
    found = official_images.squared(image(*shape), 64)
    assert found.shape == (64, 64, 3) and found.dtype == np.uint8
    scale = 64 / max(shape)
    between = cv2.resize(image(*shape), (max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale))))
    np.testing.assert_array_equal(found, cv2.resize(between, (64, 64)))


def test_an_image_of_that_size_is_left_alone():
    np.testing.assert_array_equal(official_images.squared(image(256, 256)), image(256, 256))
    np.testing.assert_array_equal(official_images.centre(image(9, 9), 1.0), image(9, 9))


def test_the_centre_is_of_rows_only():
    found = official_images.centre(np.indices((256, 256), np.uint8)[[0, 1, 1]].transpose(1, 2, 0))
    assert found[0, 0, 0] == 13 and found[-1, 0, 0] == 242  # rows 13 to 242 fill the height
    np.testing.assert_array_equal(found[100, :, 1], np.arange(256))  # columns are where they were


@pytest.mark.parametrize("wrong", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_image_is_named(wrong):
    with pytest.raises(errors.UserError, match=r"uint8\[H, W, 3\], not"):
        official_images.squared(wrong)


def test_an_empty_crop_is_named():
    with pytest.raises(errors.UserError, match="share 0.01 leaves 0 of 9 rows"):
        official_images.centre(image(9, 9), 0.01)


def test_without_opencv_the_way_out_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.UserError, match="pip install 'lapa_jax"):
        official_images.squared(image(4, 4))
