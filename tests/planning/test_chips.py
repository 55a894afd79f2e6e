import pytest

from lapa_jax import errors
from lapa_jax.planning import chips


@pytest.mark.parametrize(
    "kind, name",
    [
        ("TPU v5 lite", "v5e"), ("TPU v5", "v5p"), ("TPU v6 lite", "v6e"), ("TPU v4", "v4"),
        ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H100 PCIe", "h100pcie"), ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
    ],
)  # fmt: skip
def test_a_device_finds_its_chip(kind, name):
    assert chips.of(kind).name == name


def test_of_others_nothing_is_claimed():
    assert chips.of("cpu") is None
    with pytest.raises(errors.UserError, match="no chip 'v9'.*v5e"):
        chips.named("v9")


@pytest.mark.parametrize("chip", chips.CHIPS.values(), ids=lambda chip: chip.name)
def test_numbers_are_in_their_units(chip):
    """A factor of a thousand, or of eight between bits and bytes, leaves these ranges."""
    assert 1e14 < chip.bfloat16 < 1e16 and chip.highest <= chip.float32 <= chip.bfloat16
    assert 15e9 < chip.memory < 300e9 and 5e11 < chip.bandwidth < 2e13
    assert 3e10 <= chip.links < 2e12 and 1e9 < chip.network < 1e11 and chip.links > chip.network
    assert chip.host in (4, 8) and chip.source.startswith("https://")
