"""Bytes by what they are for, and a compiler's refusal read."""

import jax
import jax.numpy as jnp
import pytest

from lapa_jax import optimizers, sharding, training
from lapa_jax.planning import memory


def state(mesh):
    tx, _ = optimizers.make(10, learning_rate=1e-3, ema=0.9)

    def init(key):
        return {"params": {"feed_forward": {"w1": {"kernel": jnp.zeros((64, 32))}}, "scale": jnp.ones(32)}}

    return training.abstract_state(training.make_init(init, tx), mesh)


def test_a_device_has_its_share_of_what_is_split():
    found = state(sharding.make_mesh(1, 8, 1))
    batch = {"x": jax.ShapeDtypeStruct((16, 4), jnp.uint8, sharding=found.params["scale"].sharding)}
    got = memory.of_arguments(found, batch)
    assert got.params == got.ema == 4 * (64 * 32 / 8 + 32)
    assert got.opt_state == pytest.approx(2 * 4 * (64 * 32 / 8 + 32), abs=16)  # and counts
    assert (got.variables, got.batch) == (0, 64)
    assert got.peak == got.state + 64


def test_a_compiled_program_adds_what_it_makes():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    found = state(mesh)
    step = jax.jit(lambda s: s.replace(params=jax.tree.map(lambda x: x + 1, s.params)), donate_argnums=0)
    arguments = memory.of_arguments(found, {})
    got = memory.of_program(arguments, step.lower(found).compile().memory_analysis())
    assert got.state == arguments.state and abs(got.layout) < 1000 and got.outputs < 1000
    assert got.peak >= got.state


@pytest.mark.parametrize(
    "message, expected",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (279.52G) "
         "exceeds available HBM (95.74G).", 279.52 * 2**30),
        ("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.5M of 31.25G hbm.", 512.5 * 2**20),
    ],
)  # fmt: skip
def test_what_a_compiler_would_need_is_read(message, expected):
    assert memory.wanted(message) == int(expected)
    with pytest.raises(RuntimeError, match="another"):
        memory.wanted("another error")


def test_a_refusal_keeps_what_is_known():
    arguments = memory.Memory(params=2**30, opt_state=2**30, ema=0, variables=0, batch=0)
    error = RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.00G of 15.75G hbm.")
    got = memory.of_refusal(arguments, error)
    assert got.refused and got.peak == 20 * 2**30 and got.temporaries == 18 * 2**30
