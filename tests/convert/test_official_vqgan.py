"""The official image tokenizer: its tree there and back bit by bit, sizes from shapes, strangers; the program."""

import functools
import importlib
import json
import pathlib
import pickle
import subprocess
import sys
import types

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

from lapa_jax import errors, sharding, trained
from lapa_jax.convert import array_pickle, official_vqgan, vqgan_names
from lapa_jax.models import image_tokens, vqgan

ROOT = pathlib.Path(__file__).parents[2]
TOY = dict(
    width=32, multipliers=(1, 2), num_blocks=1, z_channels=6, norm_groups=32, num_codes=5, code_dim=3,
    quantizer="vq", quantizers={"vq": {"whiten": False}},
)  # fmt: skip


@functools.cache
def official_leaves():
    """What the official code would save, with random numbers."""
    random = np.random.default_rng(0)
    shapes = official_vqgan.expected(TOY)
    return {path: random.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


def nested(leaves):
    return flax.traverse_util.unflatten_dict(dict(leaves), sep="/")


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep="/")


def same(leaves, other):
    parts = [[(k, v.dtype, v.shape, v.tobytes()) for k, v in sorted(each.items())] for each in (leaves, other)]
    return parts[0] == parts[1]


def test_there_and_back():
    ours = vqgan_names.from_official(official_leaves())
    assert same(vqgan_names.to_official(ours), official_leaves())
    abstract = jax.eval_shape(vqgan.init_fn(vqgan.from_config(TOY), 8), jax.random.key(0))["params"]
    assert {path: leaf.shape for path, leaf in flat(abstract).items()} == {k: v.shape for k, v in ours.items()}


def test_some_names_by_hand():
    pairs = {
        "encoder/DownsamplingBlock_3/ResnetBlock_1/GroupNorm_1/scale": "encoder/down_3/block_1/norm_out/scale",
        "decoder/UpsamplingBlock_0/Upsample_0/Conv_0/kernel": "decoder/up_0/conv_up/kernel",
        "decoder/MidBlock_0/ResnetBlock_1/Conv_0/bias": "decoder/middle_1/conv_in/bias",
        "encoder/Conv_1/kernel": "encoder/conv_out/kernel",
        "quantize/embeddings": "quantize/codebook",
    }
    for theirs, ours in pairs.items():
        assert vqgan_names.renamed(theirs) == ours and vqgan_names.renamed(ours, official=True) == theirs
    for path in ("encoder/Conv_9/kernel", "encoder/DownsamplingBlock_x/ResnetBlock_0/Conv_0/bias", "kernel", ""):
        with pytest.raises(errors.UserError, match="is no parameter of the official"):
            vqgan_names.renamed(path)


def test_sizes_are_told_from_shapes():
    assert official_vqgan.model_of(official_leaves()) == TOY


def test_recorded_tree_at_full_size(shared):
    """Names, shapes and order, as the official code lists them."""
    rows = [line.split("\t") for line in (shared / "gold" / "vqgan" / "full_tree.txt").read_text().splitlines()]
    listed = {row[0]: row[1] for row in rows if not row[0].startswith("#")}
    model = dict(vqgan.SIZES["base"], quantizer="vq", quantizers={})
    assert listed == {path: str(shape) for path, shape in official_vqgan.expected(model).items()}


@pytest.fixture
def write(tmp_path):
    def write(leaves):
        (tmp_path / "vqgan").write_bytes(pickle.dumps(nested(leaves), 4))
        return tmp_path / "vqgan"

    return write


def test_a_file_is_read(write):
    model, params = official_vqgan.read(write(official_leaves()))
    assert model == TOY
    assert same(vqgan_names.to_official(flat(params)), official_leaves())
    outer = {f"params/{path}": value for path, value in official_leaves().items()}
    assert same(flat(official_vqgan.read(write(outer))[1]), flat(params))


def changed(**changes):
    """The toy's leaves with some changed; None leaves one out."""
    leaves = dict(official_leaves()) | {name.replace("__", "/"): value for name, value in changes.items()}
    return {name: value for name, value in leaves.items() if value is not None}


HALF = {"post_quant_conv__bias": np.full(6, np.nan, np.float32)}
STRANGERS = {
    "no first convolution": (dict(encoder__Conv_0__kernel=None), "encoder/Conv_0/kernel is missing"),
    "no codebook": (dict(quantize__embeddings=None), "quantize/embeddings is missing"),
    "flat codebook": (dict(quantize__embeddings=np.ones(5)), r"quantize/embeddings has shape \(5,\)"),
    "a leaf is missing": (
        dict(encoder__GroupNorm_0__bias=None), r"encoder/GroupNorm_0/bias is absent there and \(64,\) in"
    ),
    "a leaf too many": (dict(mystery=np.ones(3)), r"mystery is \(3,\) there and absent in"),
    "another shape": (
        dict(decoder__Conv_1__bias=np.ones(4, np.float32)), r"decoder/Conv_1/bias is \(4,\) there and \(3,\) in"
    ),
    "integers": (dict(quant_conv__bias=np.ones(3, int)), "quant_conv/bias is int64, not a float"),
    "not a number": (HALF, "post_quant_conv/bias holds infinities or NaN"),
    "odd width": (dict(encoder__Conv_0__kernel=np.ones((3, 3, 3, 48), np.float32)), "48"),
}  # fmt: skip


@pytest.mark.parametrize("name", STRANGERS)
def test_other_models_are_named(name, write):
    changes, message = STRANGERS[name]
    path = write(changed(**changes))
    with pytest.raises(errors.UserError, match=message) as caught:
        official_vqgan.read(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_models_without_an_official_form_are_named():
    with pytest.raises(errors.UserError, match="norm_groups=8 has no official form"):
        official_vqgan.export(vqgan.VQGAN(norm_groups=8), {}, {})


@pytest.mark.parametrize("quantizer", ["vq", "vq_ema"])
def test_whitening_goes_into_the_convolution(quantizer):
    """A trained model of ours, with what the official code has none of, gives the same ids and images there."""
    model = vqgan.from_config(TOY | {"quantizer": quantizer, "quantizers": {}})
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), np.uint8)
    variables = jax.jit(vqgan.init_fn(model, 16))(jax.random.key(0))

    @jax.jit
    def look(variables, key):
        changing = [name for name in variables if name != "params"]
        _, new = model.apply(variables, images, train=True, mutable=changing, rngs={"noise": key})
        _, last = model.apply({**variables, **new}, method="maintain", mutable=[*changing, "params"])
        return {**variables, **new, **last}

    for i in range(2):
        variables = look(variables, jax.random.key(i))
    assert float(variables["batch_stats"]["quantize"]["centre"]["count"]) == 2
    state = dict(variables)
    leaves = flat(official_vqgan.export(model, state.pop("params"), state))
    there = official_vqgan.model_of(leaves)
    assert there == TOY
    official_vqgan.check(leaves, official_vqgan.expected(there))
    other = {"params": official_vqgan.tree_of(leaves)}
    other |= {"codebook": jax.tree.map(np.zeros_like, dict(variables["codebook"]))}
    ours, theirs = ((model, variables), (vqgan.from_config(there), other))
    codes, found = (jax.jit(functools.partial(m.apply, method="encode"))(v, images).ids for m, v in (ours, theirs))
    assert len(np.unique(codes)) > 1
    assert np.mean(np.asarray(codes) == np.asarray(found)) > 0.99
    decoded = [jax.jit(functools.partial(m.apply, method="decode"))(v, codes) for m, v in (ours, theirs)]
    np.testing.assert_allclose(*decoded, atol=1e-4)


# The program


def program():
    """The module with flags that a test can set; other programs that tests import have some of the same name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flags, "DEFINE_string", lambda *_, **__: types.SimpleNamespace(value=None))
        patch.setattr(config_flags, "DEFINE_config_file", lambda *_, **__: types.SimpleNamespace(value=None))
        return importlib.import_module("convert_vqgan")


convert_vqgan = program()


@pytest.fixture(scope="module")
def run(load_config, tmp_path_factory):
    """A folder made of the toy, which lies beside it."""
    folder = tmp_path_factory.mktemp("official")
    array_pickle.write(folder / "vqgan_toy", nested(official_leaves()))
    config = load_config("train_tokenizer", "base", **{"data.image_size": 16}).to_dict()
    convert_vqgan.import_official(str(folder / "vqgan_toy"), folder / "run", config)
    return folder / "run"


def test_a_run_is_made_and_comes_back(run, tmp_path):
    mesh = sharding.make_mesh()
    with jax.set_mesh(mesh):
        tokenizer = trained.load_tokenizer(run, mesh)
    assert tokenizer.image_size == 16 and tokenizer.model == vqgan.from_config(TOY)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == sum(value.size for value in official_leaves().values())
    convert_vqgan.export_run(str(run), str(tmp_path / "back"))
    assert same(flat(pickle.loads((tmp_path / "back").read_bytes())), official_leaves())
    assert (tmp_path / "back").read_bytes() == (run.parent / "vqgan_toy").read_bytes()
    with pytest.raises(errors.UserError, match="back exists"):
        convert_vqgan.export_run(str(run), str(tmp_path / "back"))


def test_a_folder_is_not_overwritten(run, load_config):
    config = json.loads((run / "config.json").read_text())
    with pytest.raises(errors.UserError, match="has a checkpoint already"):
        convert_vqgan.import_official(str(run.parent / "vqgan_toy"), run, config)


def test_the_ids_are_those_of_the_official_code(shared, load_config, tmp_path):
    folder = shared / "gold" / "vqgan"
    config = load_config("train_tokenizer", "base", **{"data.image_size": 64}).to_dict()
    convert_vqgan.import_official(str(folder / "vqgan"), tmp_path / "run", config)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        tokenizer = trained.load_tokenizer(tmp_path / "run", mesh)
        with np.load(folder / "io64.npz") as gold:
            ids = image_tokens.encode_frames(tokenizer, jnp.asarray(gold["image_u8"]))
            np.testing.assert_array_equal(ids, gold["indices"].reshape(2, 16))
    convert_vqgan.export_run(str(tmp_path / "run"), str(tmp_path / "back"))
    written, original = (flat(pickle.loads(p.read_bytes())) for p in (tmp_path / "back", folder / "vqgan"))
    assert same(written, original)


@pytest.mark.parametrize(
    "given", [{}, dict(OFFICIAL="x"), dict(OFFICIAL="x", WORKDIR="y", RUN="z"), dict(RUN="x", WORKDIR="y")]
)
def test_flags_that_say_no_way_are_refused(given, monkeypatch):
    for name, value in given.items():
        monkeypatch.setattr(getattr(convert_vqgan, name), "value", value)
    with pytest.raises(errors.UserError, match="either --official and --workdir or --run and --out"):
        convert_vqgan.main([])


def command(*flags):
    program = [sys.executable, "experiments/convert_vqgan.py", *flags]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_the_command_line(tmp_path):
    array_pickle.write(tmp_path / "vqgan", nested(official_leaves()))
    given = f"--official={tmp_path}/vqgan", f"--workdir={tmp_path}/run"
    done = command(*given, "--config.model.width=3")
    assert done.returncode == 2 and "--config.model.width: the model is that of" in done.stderr
    done = command(*given, "--config.data.image_size=16", "--config.model.dtype=bfloat16")
    assert done.returncode == 0, done.stderr
    assert "16 px to 8x8 codes of 5" in done.stdout
    done = command(f"--run={tmp_path}/run", f"--out={tmp_path}/back")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "back").read_bytes() == (tmp_path / "vqgan").read_bytes()
