"""What latents lead to is what the LAQ of the checkpoint decodes, and codes that it has not are refused."""

import jax
import numpy as np
import pytest

from lapa_jax import errors, sharding, trained
from lapa_jax.data import transforms
from lapa_jax.serving.imagination import Imagination

FITS = {"code_length": 1, "num_codes": 8}


@pytest.fixture(scope="module")
def laq(tiny_run):
    return tiny_run("train_laq")


@pytest.fixture(scope="module")
def imagine(laq):
    return Imagination.from_checkpoint(laq, FITS)


def test_the_frame_is_the_decoders(imagine, laq):
    image = np.random.default_rng(0).integers(0, 256, (90, 90, 3), dtype=np.uint8)
    quantizer, state, run = trained.load_laq(laq, sharding.make_mesh(devices=jax.devices()[:1]))
    seen = transforms.resize(image, run["data"]["image_size"])
    variables = {"params": state.params, **state.variables}
    painted = [imagine(image, np.int32([code])) for code in range(8)]
    for code, found in enumerate(painted):
        expected = quantizer.apply(variables, seen[None], np.int32([[code]]), method="decode")[0]
        np.testing.assert_array_equal(found.seen, seen)
        assert found.painted.dtype == np.uint8
        np.testing.assert_allclose(found.painted, np.asarray(expected) * 255, atol=0.51)
    assert imagine.gap == run["data"]["gap"]
    assert len({one.painted.tobytes() for one in painted}) > 1


@pytest.mark.parametrize("latents", [[8], [-1], [1, 2], [], [[1]]])
def test_codes_that_the_laq_has_not_are_refused(imagine, latents):
    with pytest.raises(errors.UserError, match="this LAQ paints 1 codes below 8"):
        imagine(np.zeros((64, 64, 3), np.uint8), np.array(latents, np.int32))


@pytest.mark.parametrize("metadata", [{"code_length": 2, "num_codes": 8}, {"code_length": 1, "num_codes": 4}])
def test_the_laq_of_another_policy_is_refused(laq, metadata):
    with pytest.raises(errors.UserError, match="give the LAQ that the VLM was trained on"):
        Imagination.from_checkpoint(laq, metadata)


def test_a_folder_of_another_kind_is_refused(tmp_path):
    with pytest.raises(errors.UserError, match="no checkpoint"):
        Imagination.from_checkpoint(tmp_path, FITS)
