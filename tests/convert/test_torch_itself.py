"""Our files of torch.save against torch itself, where that is installed; nothing but this comparison wants it."""

import collections

import ml_dtypes
import numpy as np
import pytest
from test_torch_zip import STATE, same

from lapa_jax import errors
from lapa_jax.convert import torch_zip

torch = pytest.importorskip("torch", reason="torch is not installed; only this comparison wants it")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "laq.pt"


def as_array(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


@pytest.mark.parametrize("weights_only", [True, False])
@pytest.mark.parametrize("mmap", [True, False])
def test_torch_reads_what_we_write(path, weights_only, mmap):
    torch_zip.write(path, STATE)
    found = torch.load(path, weights_only=weights_only, mmap=mmap)
    assert same({name: as_array(value) for name, value in found.items()}, STATE)


def test_we_read_what_torch_writes(path):
    base = torch.randn(4, 6)
    state = {
        "base": base, "turned": base.t(), "corner": base[1:, ::2], "nothing": torch.zeros(16, 0, 64),
        "scalar": torch.tensor(2.5), "parameter": torch.nn.Parameter(torch.randn(2, 3)), "last": base[3, 5],
        **{str(dtype): torch.arange(3).to(dtype) for dtype in (
            torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16,
            torch.int8, torch.uint8, torch.bool,
        )},
    }  # fmt: skip
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    for expected in (state, module.state_dict(), collections.OrderedDict(module.named_parameters())):
        torch.save(expected, path)
        found = torch_zip.read(path)
        assert same(found, {name: as_array(value) for name, value in expected.items()})


@pytest.mark.parametrize(
    "made, message",
    [
        (lambda: {"a": torch.ones(1).expand(10)}, r"\(10,\), more than the 1 elements"),
        (lambda: {"a": torch.zeros(3, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
        (lambda: {"a": torch.zeros(3, dtype=torch.uint16)}, "rebuild_tensor_v3"),
        (lambda: {"a": torch.eye(3).to_sparse()}, "rebuild_sparse_tensor"),
        (lambda: {"a": torch.ones(2, dtype=torch.complex64).conj().imag}, "arguments"),
        (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: torch.ones(2), "holds a Tensor"),
        (lambda: [1, 2], "holds a list"),
        (lambda: {}, "nothing"),
        (lambda: {"weight": torch.ones(2), "note": "x"}, r"'weight' \(Tensor\), 'note' \(str\)"),
        (lambda: {"model": {"a": torch.ones(2)}, "step": 3}, r"'model' \(dict of 1\), 'step' \(int\).*--part"),
    ],
)  # fmt: skip
def test_what_is_no_flat_state_dict_is_told(made, message, path):
    torch.save(made(), path)
    with pytest.raises(errors.UserError, match=message):
        torch_zip.read(path)


def test_a_part_that_is_a_dict(path):
    torch.save({"model": {"a": torch.ones(2)}, "step": 3}, path)
    assert same(torch_zip.read(path, "model"), {"a": np.ones(2, np.float32)})
