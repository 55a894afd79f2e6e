"""Images, chunks and the numbering of steps."""

import io

import numpy as np
import pytest
from PIL import Image

from lapa_jax.data import transforms


def test_png_round_trip_is_exact():
    image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(transforms.decode_image(transforms.encode_png(image)), image)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_every_kind_of_image_becomes_rgb(mode):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 200, 200)).convert(mode).save(buffer, format="PNG")
    image = transforms.decode_image(buffer.getvalue())
    assert image.shape == (4, 6, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - 200).max() < 10


def test_shrinking_averages_over_pixels():
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    image = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    small = transforms.decode_image(transforms.encode_png(image), 8)
    assert small.shape == (8, 8, 3) and np.abs(small.astype(int) - 127).max() < 10
    np.testing.assert_array_equal(transforms.resize(image, 8), small)
    assert transforms.resize(image, None) is image


def test_chunk_repeats_the_last_row_and_masks_it():
    trajectory = np.arange(10.0).reshape(5, 2)
    rows, mask = transforms.chunk(trajectory, 3, 4)
    np.testing.assert_array_equal(rows, trajectory[[3, 4, 4, 4]])
    np.testing.assert_array_equal(mask, [True, True, False, False])


def test_step_index_skips_episodes_that_are_too_short():
    index = transforms.StepIndex(np.array([3, 2, 0, 4]), gap=2)
    assert [index[i] for i in range(len(index))] == [(0, 0), (3, 0), (3, 1)]
    assert len(transforms.StepIndex(np.array([2, 1]), gap=2)) == 0
    assert len(transforms.StepIndex(np.array([], dtype=np.int64))) == 0
