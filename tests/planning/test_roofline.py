"""Seconds from counts: held to divisions made by hand."""

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.planning import chips, roofline, topologies
from lapa_jax.planning.collectives import Collective

V5E, H100 = chips.CHIPS["v5e"], chips.CHIPS["h100"]


def gather(groups, size=1e9, kind="all-gather"):
    return Collective(kind, size, np.array(groups), 1.0, "", "")


def test_a_step_is_between_the_longest_time_and_their_sum():
    topology = topologies.parse("v5e:16x16")
    got = roofline.estimate(topology, {"bfloat16": 197e12, "highest": 197e12}, 819e9, [], needed=197e12 * 256)
    assert got.compute == pytest.approx(1 + 6) and got.memory == pytest.approx(1)
    assert (got.shortest, got.longest, got.bound) == (pytest.approx(7), pytest.approx(8), "compute")
    assert got.mfu(2.0) == pytest.approx(0.5)


def test_links_of_a_torus():
    """200 GB/s out of a v5e over two axes, which close to rings of 16 only."""
    everyone = gather([range(256)])
    assert roofline.speed(topologies.parse("v5e:16x16"), V5E, everyone) == 200e9
    assert roofline.speed(topologies.parse("v5e:8x8"), V5E, gather([range(64)])) == 100e9
    assert roofline.speed(topologies.parse("v5e:16x16"), V5E, gather([range(16)])) == 100e9
    ring = gather([[0, 1], [1, 0]], kind="collective-permute")
    assert roofline.speed(topologies.parse("v5e:16x16"), V5E, ring) == 50e9


def test_hosts_of_gpus_have_a_network_between_them():
    topology = topologies.parse("gpu:h100:8x4")
    assert not roofline.far(topology, gather([range(8)])) and roofline.far(topology, gather([range(16)]))
    assert roofline.network_speed(topology, H100, gather([range(32)])) == 400e9  # eight cards of a host together
    assert roofline.network_speed(topology, H100, gather([[0, 8, 16, 24]])) == 50e9
    got = roofline.estimate(topology, {}, 0, [gather([[0, 8]]), gather([[0, 1]])], 1)
    assert got.network == pytest.approx(0.5 / 50) and got.links == pytest.approx(0.5 / 450)


@pytest.mark.parametrize(
    "name, shape, size",
    [
        ("v5e:8x16", (8, 16), 128), ("v5p-32", (2, 2, 4), 16), ("v6e-64", (8, 8), 64), ("v5e:4x4*2", (4, 4), 32),
        ("gpu:h100:8x4", (4, 8), 32), ("gpu:a100:8", (1, 8), 8), ("cpu:8", (8,), 8), ("v4-16", (2, 2, 2), 8),
    ],
)  # fmt: skip
def test_topologies_by_name(name, shape, size):
    found = topologies.parse(name)
    assert (found.shape, found.size) == (shape, size)


@pytest.mark.parametrize(
    "name, said",
    [
        ("v5e", "give TPUs as"), ("v9:2x2", "no chip 'v9'"), ("gpu:v5e:8x1", "is no GPU"),
        ("h100:8x1", "is a GPU"),        ("v5e:2x2x2", "of 2 axes"), ("v5e-12", "no usual shape"),
    ],
)  # fmt: skip
def test_what_there_is_not_is_named(name, said):
    with pytest.raises(errors.UserError, match=said):
        topologies.parse(name)
