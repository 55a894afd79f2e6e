"""Order of devices in a mesh, with devices that only say where they are."""

import dataclasses
import importlib.util
import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from lapa_jax import device_order, errors


@dataclasses.dataclass(frozen=True)
class Cpu:
    id: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


@dataclasses.dataclass(frozen=True)
class Gpu(Cpu):
    platform: str = "gpu"
    device_kind: str = "NVIDIA H100"


@dataclasses.dataclass(frozen=True)
class GpuOfSlice(Gpu):
    slice_index: int = 0


@dataclasses.dataclass(frozen=True)
class Tpu(GpuOfSlice):
    platform: str = "tpu"
    device_kind: str = "TPU v5p"
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0


def torus(*shape, slices=1):
    """TPUs of slices of that shape, in the order of their numbers."""
    places = [place[::-1] for place in itertools.product(*map(range, shape[::-1]))]
    return [
        Tpu(s * len(places) + i, slice_index=s, coords=place)
        for s in range(slices)
        for i, place in enumerate(places)
    ]


def hosts(count, each=8):
    return [Gpu(i, process_index=i // each) for i in range(count * each)]


def sizes(data=1, fsdp=1, tensor=1, sequence=1):
    return dict(data=data, fsdp=fsdp, tensor=tensor, sequence=sequence)


def slices_along(mesh, name):
    """How many slices a line of devices along that axis goes through, at most."""
    lines = np.moveaxis(mesh, list(sizes()).index(name), -1)
    lines = lines.reshape(-1, lines.shape[-1])
    return max(len({device_order.slice_of(device) for device in line}) for line in lines)


def test_devices_of_one_host_stay_as_they_come():
    devices = [Cpu(i, process_index=i // 4) for i in range(8)]
    mesh = device_order.arrange(sizes(2, 2, 2), devices)
    assert mesh.shape == (2, 2, 2, 1)
    assert [device.id for device in mesh.flat] == list(range(8))


@pytest.mark.parametrize(
    "axes, over",
    [
        (sizes(data=2, fsdp=8), dict(data=2, fsdp=1)),
        (sizes(fsdp=16), dict(data=1, fsdp=2)),
        (sizes(data=4, tensor=4), dict(data=2, fsdp=1)),
        (sizes(data=3, fsdp=2, tensor=2, sequence=4), dict(data=1, fsdp=2)),
        (sizes(fsdp=2, sequence=8), dict(data=1, fsdp=2)),
        (sizes(data=2, fsdp=4, sequence=4), dict(data=2, fsdp=2)),
    ],
    ids=lambda value: " ".join(map(str, value.values())),
)
@pytest.mark.parametrize("kind", ["tpu", "gpu", "gpu of a slice"])
def test_the_first_axis_that_can_goes_over_slices(axes, over, kind):
    count = over["data"] * over["fsdp"]
    each = int(np.prod(list(axes.values()))) // count
    if kind == "tpu":
        devices = torus(*{8: (2, 2, 2), 24: (2, 3, 4)}[each], slices=count)
    else:
        devices = hosts(count, each)
        if kind == "gpu of a slice":  # a process for each device
            devices = [GpuOfSlice(d.id, process_index=d.id, slice_index=d.process_index) for d in devices]
    mesh = device_order.arrange(axes, devices)
    assert mesh.shape == tuple(axes.values())
    assert {device.id for device in mesh.flat} == {device.id for device in devices}
    assert {name: slices_along(mesh, name) for name in axes} == over | dict(tensor=1, sequence=1)


@pytest.mark.parametrize(
    "axes, shape",
    [
        (sizes(fsdp=16, tensor=4), (4, 4, 4)),
        (sizes(data=2, fsdp=2, tensor=4, sequence=4), (4, 4, 4)),
        (sizes(fsdp=4, sequence=2, tensor=8), (4, 4, 4)),  # 8 is no axis of the torus: one is shared
    ],
    ids=lambda value: " ".join(map(str, value.values() if isinstance(value, dict) else value)),
)
def test_tensor_has_the_nearest_neighbours_of_a_torus(axes, shape):
    mesh = device_order.arrange(axes, torus(*shape))
    assert {device.id for device in mesh.flat} == set(range(64))
    for line in mesh.swapaxes(-1, -2).reshape(-1, axes["tensor"]):
        spans = np.ptp([device.coords for device in line], axis=0) + 1
        assert np.prod(spans) == len(line)  # a box of the torus that holds no other device


@pytest.mark.parametrize("axes", [sizes(tensor=16), sizes(tensor=2, sequence=8), sizes(sequence=16)])
@pytest.mark.parametrize("devices", [hosts(2), torus(2, 2, 2, slices=2)], ids=["gpu", "tpu"])
def test_tensor_and_sequence_never_cross_slices(axes, devices):
    with pytest.raises(errors.UserError, match=r"2 slices \(or hosts\) of 8.*config.mesh.*multiple of 2"):
        device_order.arrange(axes, devices)


def test_slices_of_several_sizes_are_refused():
    devices = hosts(2)[:12]
    with pytest.raises(errors.UserError, match=r"slices of \[4, 8\] devices"):
        device_order.arrange(sizes(fsdp=12), devices)


def test_a_part_of_one_slice_is_a_mesh_of_its_own():
    devices = [device for device in torus(2, 2, 2, slices=2) if device.slice_index == 1]
    assert device_order.arrange(sizes(tensor=8), devices).shape == (1, 1, 8, 1)


DESCRIBED = """
import jax
jax.config.update("jax_platforms", "cpu")
from jax.experimental import topologies
from lapa_jax import sharding
devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2).devices
mesh = sharding.make_mesh(data=1, fsdp=8, tensor=2, devices=devices)
for line in mesh.devices.reshape(-1, 2):
    assert len({d.slice_index for d in line}) == 1
    assert abs(line[0].coords[0] - line[1].coords[0]) + abs(line[0].coords[1] - line[1].coords[1]) == 1
try:
    sharding.make_mesh(data=1, fsdp=1, tensor=16, devices=devices)
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("libtpu"), reason="describes TPUs: pip install libtpu")
def test_described_tpus_are_ordered_as_real_ones():
    quiet = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    run = [sys.executable, "-c", DESCRIBED]
    done = subprocess.run(run, env=os.environ | quiet, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "over 2 slices" in done.stdout
