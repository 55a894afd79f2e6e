"""Sharding on 8 fake devices: the mesh changes where things are computed, never what."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lapa_jax import errors, latent_task, sharding, trained, training
from lapa_jax.actions import task as task_lib
from lapa_jax.data import latent_rows, layouts, prompts, sequences, statistics
from lapa_jax.models import laq, vqgan
from lapa_jax.models.quantizers import whiten

ROWS = 16


def numbers(*shape):
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def laq_stage(programs, size, **model):
    model = laq.LatentActionQuantizer(**model)
    frame = jnp.zeros((1, size, size, 3))
    batch = {"frame": numbers(ROWS, size, size, 3), "next_frame": numbers(size, ROWS, size, 3).swapaxes(0, 1)}
    # Whitening sees other statistics on each device than over all of them.
    batch["next_frame"] = batch["next_frame"] * np.linspace(0.2, 1.0, ROWS, dtype=np.float32)[:, None, None, None]
    loss_fn = programs["train_laq"].make_loss(model, change_weight=2.0)
    return loss_fn, lambda key: model.init({"params": key, "noise": key}, frame, frame), batch


WORDS = ("push the red block left", "push it")


def planner(load_config, code_length=2):
    config = load_config("pretrain_vlm", "tiny").to_dict()["model"]
    text = prompts.train_tokenizer(WORDS, 6)
    layout = layouts.Clean(text, num_image_tokens=7, code_length=code_length, by_word=True)
    config["vocabs"] = dict(text=32, latent=8)
    return trained.Planner.of(config, layout, None, image_size=64)


def images():
    return np.random.default_rng(0).integers(0, 256, (ROWS, 64, 64, 3), np.uint8)


def vlm_batch(planner, rows):
    """Rows with a latent action each, of instructions of different lengths."""
    made = []
    for nth, image in enumerate(images()):
        words, codes = WORDS[nth % 2], np.array([2 * nth, 2 * nth + 1]) % 8
        sequence = layouts.with_latents(planner.layout.template(words), codes)
        example = {latent_rows.SEQUENCE: sequence, "image": image, **planner.layout.text(words)}
        made.append(rows.together([example]))
    return sequences.stack(made)


MESHES_OF = {
    "laq conv fsq": [(2, 2, 2)],
    "laq conv nsvq": [(2, 2, 2)],
    "laq conv vq_ema": [(2, 2, 2)],
    "laq conv kl": [(2, 2, 2)],
    "laq transformer nsvq": [(2, 2, 2)],
    "tokenizer": [(2, 2, 2)],
    "vlm": [(2, 2, 2), (1, 2, 1, 4)],
    "policy latents": [(2, 2, 2)],
    "policy flow": [(2, 2, 2)],
}
OTHER_MESHES_OF = {
    "laq transformer nsvq remat": [(2, 2, 2), (8, 1, 1)],
    "laq transformer nsvq": [(1, 8, 1)],
    "tokenizer": [(1, 8, 1)],
    "vlm": [(1, 8, 1), (1, 1, 2, 4), (1, 1, 1, 8)],
    "policy latents": [(1, 2, 1, 4)],
    "policy flow": [(1, 2, 1, 4)],
}
stages = pytest.mark.parametrize("stage", MESHES_OF, indirect=True)


@pytest.fixture(scope="module")
def stage(request, programs, load_config):
    """name, (loss_fn, init_fn, batch) of one stage, with the loss of its own program."""
    return request.param, make_stage(request.param, programs, load_config)


ROW = 24
"""Places in a row of the VLM, for `sequence` to divide."""


def make_stage(name, programs, load_config):
    if name.startswith("laq conv"):
        args = dict(width=8, depth=1, patch_size=4)
        own = {"fsq": dict(levels=(2, 2, 2), soft_steps=3)}
        quantizer = dict(quantizer=name.split()[-1], quantizers=own, code_dim=3)
        return laq_stage(programs, 16, backbone="conv", backbone_args=args, **quantizer)
    if name.startswith("laq transformer nsvq"):
        args = dict(
            width=16, num_heads=2, head_dim=8, image_size=24, patch_size=8, depth_spatial=1, depth_temporal=1,
            remat=name.endswith("remat"),
        )  # fmt: skip
        return laq_stage(
            programs, 24, backbone="transformer", backbone_args=args, quantizer="nsvq", code_length=4, code_dim=4
        )
    if name == "tokenizer":
        sizes = vqgan.SIZES["tiny"] | dict(width=8, multipliers=(1, 2))
        model = vqgan.VQGAN(**sizes, quantizer="vq_ema")
        batch = {"frame": images()[:, :16, :16]}
        return programs["train_tokenizer"].make_loss(model, absolute=0.2), vqgan.init_fn(model, 16), batch
    if name == "vlm":
        vlm = planner(load_config)
        rows = latent_rows.Rows.of(vlm.layout, WORDS, length=ROW)
        task = latent_task.LatentTask(vlm, rows, {"latent": 1.0})
        return programs["pretrain_vlm"].make_loss(task), vlm.init_fn(), vlm_batch(vlm, rows)
    vlm = planner(load_config, code_length=3)  # rows of 16 places, for `sequence` to divide
    stats = statistics.compute([numbers(50, 2)])
    task = task_lib.ActionTask.of(vlm, dict(kind=name.split()[-1], horizon=2, width=16), stats)
    batch = vlm.prompts([WORDS[nth % 2] for nth in range(ROWS)]) | {"image": images()}
    batch |= {"actions": numbers(ROWS, 2, 2), "action_mask": np.arange(2 * ROWS).reshape(ROWS, 2) % 3 > 0}
    return programs["finetune"].make_loss(task), task.init_fn(), batch


def run(loss_fn, state, batch, mesh):
    """Loss, metrics, new variables and gradients, on a mesh."""
    step = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    with jax.set_mesh(mesh):
        state = jax.device_put(state, sharding.tree_shardings(mesh, state))
        batch = sharding.global_batch(mesh, batch)
        (loss, (metrics, variables)), grads = step(state.params, state.variables, batch, jax.random.key(7))
    return dict(loss=loss, metrics=metrics, variables=variables, grads=grads)


def init(init_fn, mesh):
    with jax.set_mesh(mesh):
        return training.init_sharded(training.make_init(init_fn), mesh, seed=0)


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


@stages
def test_sharded_loss_and_gradients_equal_unsharded_ones(stage):
    check_equal(stage, MESHES_OF[stage[0]])


@pytest.mark.parametrize("stage", OTHER_MESHES_OF, indirect=True)
def test_other_meshes_give_the_same_too(stage):
    check_equal(stage, OTHER_MESHES_OF[stage[0]])


def check_equal(stage, meshes):
    name, (loss_fn, init_fn, batch) = stage
    state = init(init_fn, sharding.make_mesh(2, 2, 2))
    check_split(name, state.params)
    state = jax.tree.map(np.asarray, state)
    expected = run(loss_fn, state, batch, sharding.make_mesh(devices=jax.devices()[:1]))
    assert largest(expected["grads"]) > 1e-4
    noise = 1e-5 * largest(expected["grads"])  # gradients that cancel to nearly nothing differ by rounding
    for axes in meshes:
        got = run(loss_fn, state, batch, sharding.make_mesh(*axes))
        np.testing.assert_allclose(got["loss"], expected["loss"], rtol=1e-5)
        for part in ("metrics", "variables", "grads"):
            jax.tree.map_with_path(
                lambda path, a, b, axes=axes: np.testing.assert_allclose(
                    a, b, rtol=1e-4, atol=noise, err_msg=f"{axes} {sharding.path_name(path)}"
                ),
                got[part], expected[part],
            )


def check_split(name, params):
    split = [
        sharding.path_name(path)
        for path, leaf in jax.tree.leaves_with_path(params)
        if leaf.addressable_shards[0].data.size < leaf.size
    ]
    if name.startswith("laq conv"):  # small kernels are kept whole on purpose
        assert not split
    elif name.startswith("laq transformer nsvq"):
        assert sum(path.endswith("to_q/kernel") for path in split) == 4
    elif name == "tokenizer":
        assert sum(path.endswith("conv_in/kernel") for path in split) > 10
    else:
        assert sum(path.endswith("attention/wq/kernel") for path in split) == 1
        assert sum(path.endswith("embed_text/embedding") for path in split) == 1


@pytest.mark.parametrize("stage", ["vlm"], indirect=True)
def test_a_seed_gives_the_same_weights_on_every_mesh(stage):
    _, (_, init_fn, _) = stage
    states = [init(init_fn, mesh) for mesh in (sharding.make_mesh(1, 8, 1), sharding.make_mesh(2, 2, 2))]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), *states)


def test_whitening_statistics_are_of_the_global_batch():
    mesh = sharding.make_mesh(2, 4, 1)
    z = np.random.default_rng(0).normal(size=(ROWS, 2, 3)).astype(np.float32)
    z += np.arange(ROWS)[:, None, None]  # every device sees another mean
    module = whiten.Whiten()
    apply = jax.jit(lambda z: module.apply({}, z, True, mutable=["batch_stats"]))
    with jax.set_mesh(mesh):
        whitened, variables = apply(sharding.global_batch(mesh, {"z": z})["z"])
    rows = z.reshape(-1, 3)
    np.testing.assert_allclose(variables["batch_stats"]["mean"], rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(variables["batch_stats"]["cov"], np.cov(rows.T, bias=True), rtol=1e-4)
    whitened = np.asarray(whitened).reshape(-1, 3)
    np.testing.assert_allclose(whitened.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(np.cov(whitened.T, bias=True), np.eye(3), atol=2e-2)


def test_a_path_without_a_rule_is_named():
    mesh = sharding.make_mesh()
    tree = {"body": {"mystery": {"matrix": jax.ShapeDtypeStruct((4, 4), jnp.float32)}}}
    with pytest.raises(errors.UserError, match=r"body/mystery/matrix \(4, 4\)"):
        sharding.tree_shardings(mesh, tree)


@pytest.mark.parametrize(
    "name, shape, spec",
    [
        ("layers/attention/wq/kernel", (32, 64, 64), P(None, "fsdp", "tensor")),  # scanned: layers first
        ("layers/attention/wo/kernel", (64, 64), P("tensor", "fsdp")),
        ("layers/attention/wq/kernel", (64, 63), P("fsdp", None)),  # 63 does not divide: that axis is dropped
        ("embed_text/embedding", (32, 16), P(("fsdp", "tensor"), None)),
        ("opt_state/1/0/mu/embed_text/embedding", (32, 16), P(("fsdp", "tensor"), None)),
        ("embed_latent/embedding", (6, 16), P(None, None)),
        ("final_norm/scale", (64,), P(None)),
        ("step", (), P()),
    ],
)
def test_rules_give_the_spec_of_the_trailing_axes(name, shape, spec):
    assert sharding.spec_for(name, shape, dict(data=2, fsdp=2, tensor=2)) == spec


@pytest.mark.parametrize(
    "axes",
    [(3, 1, 1), (3, -1, 1), (2, 2, 1), (-1, -1, 1), (16, 1, 1), (1, -1, 1, 3), (0, -1), (-2, -4)],
)
def test_a_mesh_that_does_not_fit_is_refused(axes):
    with pytest.raises(errors.UserError, match="does not fit 8 devices"):
        sharding.make_mesh(*axes)


def test_one_axis_takes_the_devices_left_over():
    assert dict(sharding.make_mesh(2, -1, 2).shape) == dict(data=2, fsdp=2, tensor=2, sequence=1)
    assert dict(sharding.make_mesh().shape) == dict(data=1, fsdp=8, tensor=1, sequence=1)
    assert dict(sharding.make_mesh(1, 2, 1, -1).shape) == dict(data=1, fsdp=2, tensor=1, sequence=4)


def test_a_global_batch_is_split_over_data_and_fsdp():
    mesh = sharding.make_mesh(2, 2, 2)
    rows = np.arange(8, dtype=np.int32).reshape(8, 1)
    batch = sharding.global_batch(mesh, {"rows": rows})["rows"]
    assert batch.sharding.is_equivalent_to(NamedSharding(mesh, P(("data", "fsdp"))), 2)
    np.testing.assert_array_equal(batch, rows)
    for shard in batch.addressable_shards:
        np.testing.assert_array_equal(shard.data, rows[shard.index])
    with pytest.raises(errors.UserError, match=r"6 rows \(rows\) does not divide over 4"):
        sharding.global_batch(mesh, {"rows": rows[:6]})


def test_constraints_do_nothing_outside_a_mesh():
    np.testing.assert_array_equal(sharding.constrain_batch(jnp.ones((3, 2))), np.ones((3, 2)))


class Layout:
    """A mesh of devices of other processes, of which `mine` is this one."""

    axis_names = sharding.AXES

    def __init__(self, owners, mine):
        device = np.vectorize(lambda p: types.SimpleNamespace(process_index=p - mine), otypes=[object])
        self.devices = device(owners)  # so that this process, whose number is 0, owns what `mine` does
        self.shape = dict(zip(self.axis_names, self.devices.shape, strict=True))


def shares(owners):
    """(process_index, process_count) of each process that owns devices of a mesh int[data, fsdp, tensor]."""
    owners = np.array(owners)[..., None]  # sequence
    found = [sharding.batch_share(Layout(owners, mine)) for mine in range(owners.max() + 1)]
    return [(one["process_index"], one["process_count"]) for one in found]


def test_processes_read_the_rows_that_their_devices_hold():
    assert shares([[[0]], [[0]]]) == [(0, 1)]
    assert shares([[[0], [0]], [[1], [1]]]) == [(0, 2), (1, 2)]
    assert shares([[[1], [1]], [[0], [0]]]) == [(1, 2), (0, 2)]  # the mesh has another order
    assert shares([[[0, 1]], [[2, 3]]]) == [(0, 2), (0, 2), (1, 2), (1, 2)]  # pairs split matrices
    assert shares([[[0, 1], [0, 1]]]) == [(0, 1), (0, 1)]
    with pytest.raises(errors.UserError, match="parts of a batch on different processes overlap"):
        shares([[[0, 0], [0, 1], [1, 1]]])
    with pytest.raises(errors.UserError, match="overlap, or differ in size"):
        shares([[[0], [0], [1]]])


def test_a_batch_that_each_process_has_whole_is_split_like_one_brought_in_parts():
    mesh, batch = sharding.make_mesh(2, 2, 2), {"x": numbers(8, 3)}
    whole, parts = (of(mesh, batch)["x"] for of in (sharding.whole_batch, sharding.global_batch))
    np.testing.assert_array_equal(whole, parts)
    assert whole.sharding == parts.sharding
    np.testing.assert_array_equal(sharding.fetched([whole])[0], batch["x"])
    with pytest.raises(errors.UserError, match="batch of 7 rows"):
        sharding.whole_batch(mesh, {"x": numbers(7, 3)})
