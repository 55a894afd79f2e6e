"""Compiled programs read: loops, products, traffic and collectives, held to programs whose counts are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lapa_jax import errors, sharding
from lapa_jax.planning import collectives, counts, hlo, work


def compiled(function, *args, **options):
    return jax.jit(function, **options).lower(*args).compile().as_text()


def spread(spec, *shape):
    mesh = sharding.make_mesh(1, 8, 1)
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))


def looped(x, w):
    return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w), None), x, length=5)[0]


X, W = jax.ShapeDtypeStruct((16, 32), jnp.float32), jax.ShapeDtypeStruct((32, 32), jnp.float32)


def test_the_body_of_a_loop_counts_as_often_as_it_runs():
    found = counts.flops(hlo.parse(compiled(looped, X, W)))
    assert found == work.of(looped, X, W).total == 5 * 2 * 16 * 32 * 32


def test_loops_in_loops_multiply():
    def twice(x, w):
        return jax.lax.scan(lambda c, _: (looped(c, w), None), x, length=3)[0]

    assert counts.flops(hlo.parse(compiled(twice, X, W))) == 15 * 2 * 16 * 32 * 32


@pytest.mark.parametrize("stride", [1, 2])
def test_convolutions_count_what_meets_the_image(stride):
    """Less than a jaxpr says: there padding counts as if it were read."""
    x, kernel = jax.ShapeDtypeStruct((2, 8, 8, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 6), jnp.float32)

    def conv(x, kernel):
        spec = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", dimension_numbers=spec)

    sides = {1: 8 * 3 - 2, 2: 4 * 3 - 1}[stride]  # taps on an axis that meet one of its 8 pixels
    assert counts.flops(hlo.parse(compiled(conv, x, kernel))) == 2 * 2 * 6 * 4 * sides**2


def test_padding_and_holes_are_no_work():
    """A product as TPU compilers write it: one tap of 32 meets the only number of the input."""
    assert counts._meeting(1, 32, 32, stride=1, pad=31, holes=1, spread=1) == 32
    assert counts._meeting(4, 3, 9, stride=1, pad=2, holes=2, spread=1) == 12
    brute = sum(0 <= 3 * p + 2 * t - 1 < 10 for p in range(4) for t in range(3))
    assert counts._meeting(10, 3, 4, stride=3, pad=1, holes=1, spread=2) == brute


def test_traffic_is_of_what_is_read_and_written():
    a = jax.ShapeDtypeStruct((1000, 1000), jnp.float32)
    found = counts.traffic(hlo.parse(compiled(lambda a: a * 2 + 1, a)))
    assert found == pytest.approx(2 * 4e6, rel=0.01)


def test_of_a_stack_only_the_layer_at_work_is_read():
    stack, x = jax.ShapeDtypeStruct((10, 256, 256), jnp.float32), jax.ShapeDtypeStruct((256, 256), jnp.float32)

    def layers(x, stack):
        return jax.lax.scan(lambda c, w: (jnp.tanh(c @ w), None), x, stack)[0]

    found = counts.traffic(hlo.parse(compiled(layers, x, stack)))
    layer = 4 * 256 * 256
    assert 10 * 3 * layer < found < 10 * 12 * layer  # not 10 times the stack


def test_collectives_have_their_kind_volume_and_members():
    whole = NamedSharding(sharding.make_mesh(1, 8, 1), P())
    text = compiled(lambda a: a + 1, spread(P("fsdp"), 64, 10), out_shardings=whole)
    (one,) = collectives.of(text)
    assert (one.kind, one.bytes, one.members, one.times) == ("all-gather", 4 * 640, 8, 1)
    assert one.sent == 4 * 640 * 7 / 8
    (one,) = collectives.of(compiled(lambda a: a.sum(0), spread(P("fsdp"), 64, 10), out_shardings=whole))
    assert (one.kind, one.bytes, one.sent) == ("all-reduce", 40, 2 * 40 * 7 / 8)


def test_collectives_in_a_loop_count_as_often_as_it_runs():
    mesh = sharding.make_mesh(1, 8, 1)

    @functools.partial(jax.shard_map, mesh=mesh, in_specs=P("fsdp"), out_specs=P("fsdp"))
    def round_trip(x):
        pairs = [(i, (i + 1) % 8) for i in range(8)]
        return jax.lax.scan(lambda c, _: (jax.lax.ppermute(c, "fsdp", pairs), None), x, length=8)[0]

    (one,) = collectives.of(compiled(round_trip, spread(P("fsdp"), 64, 10)))
    assert (one.kind, one.times, one.bytes, one.sent) == ("collective-permute", 8, 320, 8 * 320)
    assert one.groups.tolist()[:2] == [[0, 1], [1, 2]]


def test_groups_in_another_way_are_refused():
    with pytest.raises(errors.UserError, match="not known"):
        collectives._groups("replica_groups=something[2], x")


TPU = """HloModule step, is_scheduled=true

%fused (p: bf16[4,8]) -> bf16[64,8] {
  %p = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[64,8]{1,0:T(8,128)(2,1)S(1)} all-gather(%p), channel_id=7, replica_groups=[1,16]<=[16], dimensions={0}
}

%more (q: bf16[4,8]) -> bf16[64,8] {
  %q = bf16[4,8]{1,0} parameter(0)
  ROOT %gather.2 = bf16[64,8]{1,0:S(1)} all-gather(%q), channel_id=7, replica_groups=[1,16]<=[16], dimensions={0}
}

%condition (c: (s32[], bf16[4,8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(8)
  %c = (s32[], bf16[4,8]) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], bf16[4,8])) -> (s32[], /*index=1*/bf16[4,8]) {
  %b = (s32[], bf16[4,8]) parameter(0)
  %j = s32[] get-tuple-element(%b), index=0
  %two = s32[] constant(2)
  %next = s32[] add(%j, %two)
  %x = bf16[4,8]{1,0} get-tuple-element(%b), index=1
  %piece = bf16[64,8]{1,0:S(1)} fusion(%x), kind=kCustom, calls=%more
  %sent = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[], u32[]) collective-permute-start(%x), channel_id=9, source_target_pairs={{0,1},{1,0}}
  %got = bf16[4,8]{1,0} collective-permute-done(%sent)
  ROOT %t = (s32[], bf16[4,8]) tuple(%next, %got)
}

ENTRY %main (a: bf16[4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %first = bf16[64,8]{1,0} fusion(%a), kind=kCustom, calls=%fused
  %carry = (s32[], bf16[4,8]) tuple(%zero, %a)
  %loop = (s32[], bf16[4,8]) while(%carry), condition=%condition, body=%body
  ROOT %out = bf16[4,8] get-tuple-element(%loop), index=1
}
"""  # noqa: E501


def test_what_tpu_compilers_do_is_understood():
    """An unrolled loop counts by its stride; pieces of one collective, also those in a loop beside it, are one."""
    module = hlo.parse(TPU)
    assert module.times["body"] == 4
    found = {one.kind: one for one in collectives.of(module)}
    assert len(collectives.of(module)) == 2
    assert (found["all-gather"].times, found["all-gather"].bytes) == (1, 2 * 64 * 8)
    assert (found["collective-permute"].times, found["collective-permute"].bytes) == (4, 2 * 4 * 8)
    assert module.computations["fused"]["gather.1"].shapes[0].fast


def test_a_sum_of_which_a_part_is_kept_is_a_reduce_scatter():
    fusion = """HloModule m

%fused (p: bf16[64,8]) -> bf16[4,8] {
  %p = bf16[64,8]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %sum = bf16[64,8]{1,0} all-reduce(%p), channel_id=1, replica_groups=[1,16]<=[16], to_apply=%add
  ROOT %cut = bf16[4,8]{1,0} dynamic-slice(%sum, %zero, %zero), dynamic_slice_sizes={4,8}
}

ENTRY %main (a: bf16[64,8]) -> bf16[4,8] {
  %a = bf16[64,8]{1,0} parameter(0)
  ROOT %out = bf16[4,8]{1,0} fusion(%a), kind=kCustom, calls=%fused
}
"""
    (one,) = collectives.of(fusion)
    assert (one.kind, one.bytes, one.sent) == ("reduce-scatter", 1024, 1024 * 15 / 16)


def test_a_loop_of_unknown_length_is_an_error():
    unknown = TPU.replace("%limit = s32[]{:T(128)} constant(8)", "%limit = s32[] custom-call()")
    with pytest.raises(errors.UserError, match="unknown length"):
        collectives.of(unknown)
    with pytest.raises(errors.UserError, match="no program"):
        hlo.parse("nothing")


def test_bytes_of_types():
    sizes = {"bf16[2,3]": 12, "pred[8]": 8, "f8e4m3fn[4]": 4, "s4[10]": 5, "f32[]": 4, "c64[1]": 8}
    for text, size in sizes.items():
        assert hlo.shapes(text)[0].bytes == size, text
    np.testing.assert_equal(hlo.shapes("(f32[2]{0}, u32[])")[1].dims, ())
