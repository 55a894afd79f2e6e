"""Official language models: names, files of the official code onto a mesh and back bit by bit, bounded memory."""

import math
import mmap
import pathlib
import socket
import subprocess
import sys

import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from lapa_jax import errors, sharding, vocab
from lapa_jax.convert import lapa_names, official_lapa, tux_stream
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens

ROOT = pathlib.Path(__file__).parents[2]
GOLD = ROOT.parent / "shared" / "gold" / "vlm"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")

PUBLISHED = dict(width=4096, depth=32, num_heads=32, mlp_dim=11008)
SMALL = dict(width=64, depth=2, num_heads=4, mlp_dim=128)
TINY = dict(width=16, depth=2, num_heads=2, mlp_dim=24)


def tree(trunk=TINY, text=20, vision=24, latent=8, **others):
    """Shapes of a model's parameters, by path."""
    vocabs = dict(text=text, vision=vision, latent=latent, **others)
    model = vlm.LatentActionVLM(vocabs=vocabs, heads=tuple(vocabs), trunk=trunk)
    tokens = jnp.zeros((1, 4), jnp.int32)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), Tokens.of(tokens, vocab.TEXT)))["params"]


def flat(params):
    return flax.traverse_util.flatten_dict(params, sep="/")


def on_mesh(shapes, dtype=jnp.float32, **axes):
    """The same with a dtype and shardings over the 8 devices of the tests."""
    shardings = sharding.tree_shardings(sharding.make_mesh(**axes), shapes)
    return jax.tree.map(lambda s, of: jax.ShapeDtypeStruct(s.shape, dtype, sharding=of), shapes, shardings)


def values(file):
    """Official key -> array, as numpy reads it."""
    return {name: np.array(leaf.view()) for name, leaf in tux_stream.read(file).items()}


def listed(title):
    """(key, shape) of each line under a title of the recorded list, and its number of parameters."""
    lines = (GOLD / "full_tree.txt").read_text().split(f"# {title}")[1].splitlines()[1:]
    end = next(i for i, line in enumerate(lines) if line.startswith("#"))
    rows = [line.split("\t")[:2] for line in lines[:end]]
    return {key: tuple(map(int, shape.strip("(),").split(","))) for key, shape in rows}, lines[end]


@needs_gold
@pytest.mark.parametrize("title, others", [("FlaxDeltaLaMA", {}), ("FlaxDeltaActionLaMA", {"action": 256})])
def test_the_published_trees(title, others):
    """Every name, shape and the count at full size, in both directions."""
    wanted, total = listed(title)
    ours = flat(tree(PUBLISHED, 32000, 8448, 8, **others))
    named = {key: leaf.shape for key, leaf in lapa_names.to_official(ours).items()}
    assert named == wanted and list(named) == list(wanted)
    count = sum(math.prod(shape) for shape in named.values())
    assert f"# {len(named)} leaves, {count} parameters" == total
    assert count == (6_809_784_320 if others else 6_807_687_168)
    assert lapa_names.from_official(wanted, None) == {path: leaf.shape for path, leaf in ours.items()}


@needs_gold
@pytest.mark.parametrize("axes", [dict(data=2, fsdp=2, tensor=2), dict(data=8, fsdp=1), dict(fsdp=1, tensor=8)])
def test_official_weights_on_a_mesh(axes):
    """Bit by bit, on the devices that the rules say, as float32."""
    abstract = on_mesh(tree(SMALL, 512, 8448, 8), **axes)
    params = official_lapa.read(GOLD / "params", abstract)
    named = lapa_names.to_official(flat(params))
    wanted = values(GOLD / "params")
    assert len(named) == 16 and named.keys() == wanted.keys()
    for key, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(named[key]), value.astype(np.float32), strict=True)
    assert jax.tree.map(lambda leaf: leaf.sharding, params) == jax.tree.map(lambda leaf: leaf.sharding, abstract)


@needs_gold
@pytest.mark.parametrize("name", ["tiny_fp32_chunked", "tiny_fp32_noscan", "tiny_fp32_trainstate"])
def test_all_kinds_of_files_are_read_alike(name):
    abstract = on_mesh(tree(), data=2, fsdp=2, tensor=2)
    if "noscan" in name:  # of other random numbers: the layers of that file, stacked by hand
        stored = values(GOLD / name)
        keys = {key.replace("/0/", "/scan_decoder/") for key in stored if "/1/" not in key}
        layers = [[stored[key.replace("scan_decoder", str(i))] for i in range(2)] for key in keys]
        wanted = {k: np.stack(v) if "scan_decoder" in k else v[0] for k, v in zip(keys, layers, strict=True)}
    else:
        wanted = values(GOLD / "tiny_fp32")
    for flavour in ("", "trainstate_params::") if "trainstate" in name else ("", "params::"):
        named = lapa_names.to_official(flat(official_lapa.read(f"{flavour}{GOLD / name}", abstract)))
        assert len(named) == 16 and named.keys() == wanted.keys()
        for key, value in wanted.items():
            np.testing.assert_array_equal(np.asarray(named[key]), value, strict=True)


@needs_gold
@pytest.mark.parametrize(
    "name, trunk, text, vision, options",
    [
        ("params", SMALL, 512, 8448, dict()),
        ("tiny_fp32", TINY, 20, 24, dict(float_dtype=None)),
        ("tiny_fp32_noscan", TINY, 20, 24, dict(float_dtype=None, scan_layers=False)),
    ],
)
def test_official_files_are_written_bit_by_bit(name, trunk, text, vision, options, tmp_path):
    """Also when float32 parameters on eight devices are cast to bfloat16 on their way."""
    params = official_lapa.read(GOLD / name, on_mesh(tree(trunk, text, vision), data=2, fsdp=2, tensor=2))
    official_lapa.write(tmp_path / "params", params, **options)
    assert (tmp_path / "params").read_bytes() == (GOLD / name).read_bytes()


@needs_gold
def test_new_vocabularies_begin_as_in_the_official_code(tmp_path):
    """The latent model of the file with action tables that it lacks; stored ones begin anew when told so."""
    abstract = on_mesh(tree(SMALL, 512, 8448, 8, action=245), fsdp=2, tensor=2, data=2)
    with pytest.raises(errors.UserError, match="missing embed_action/embedding, head_action/kernel; "):
        official_lapa.read(GOLD / "params", abstract)
    recorded = np.load(GOLD / "missing_key_init.npz")
    keys = {"embed_action/embedding": "ate/embedding", "head_action/kernel": "action_head/kernel"}
    both = tmp_path / "params"
    both.write_bytes((GOLD / "params").read_bytes() + (GOLD / "params_action_heads_only").read_bytes())
    for file in (GOLD / "params", both):
        params = flat(official_lapa.read(file, abstract, new="_action/"))
        for name, key in keys.items():
            np.testing.assert_allclose(np.asarray(params[name]), recorded[key], rtol=5e-7)
            assert params[name].sharding == flat(abstract)[name].sharding
    head = flat(official_lapa.read(both, abstract))["head_action/kernel"]
    np.testing.assert_array_equal(np.asarray(head), values(both)["action_head/kernel"].astype(np.float32))


def random_values(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes)


@pytest.fixture
def stored(tmp_path):
    """A small file and what it holds."""
    params = random_values(tree())
    official_lapa.write(tmp_path / "params", params, float_dtype=None)
    return tmp_path / "params", params


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_cast_once_and_as_numpy_casts(stored, dtype):
    path, params = stored
    read = official_lapa.read(path, on_mesh(tree(), dtype, data=2, fsdp=2, tensor=2))
    assert jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b.astype(dtype)), read, params))


def test_without_shardings_it_goes_to_one_device(stored):
    path, params = stored
    read = official_lapa.read(path, tree())
    assert jax.tree.all(jax.tree.map(np.array_equal, read, params))
    assert {leaf.devices() == {jax.devices()[0]} for leaf in jax.tree.leaves(read)} == {True}


def test_a_whole_train_state_is_told_by_its_keys(stored, tmp_path):
    path, params = stored
    leaves = tux_stream.read(path)
    state = {"opt_state/mu": np.zeros(3, np.float32), **{f"params/params/{key}": v for key, v in leaves.items()}}
    tux_stream.write(tmp_path / "state", state)
    assert jax.tree.all(jax.tree.map(np.array_equal, official_lapa.read(tmp_path / "state", tree()), params))


def changed(path, **leaves):
    """The file with leaves replaced or added, or left out where None; `__` is a slash."""
    found = {name: leaf.view() for name, leaf in tux_stream.read(path).items()}
    found |= {name.replace("__", "/"): value for name, value in leaves.items()}
    other = path.with_name("other")
    tux_stream.write(other, {name: value for name, value in found.items() if value is not None})
    return other


NAN = np.full((16, 8), np.nan, np.float32)
WQ = "transformer__h__{}__attention__wq__kernel"
WRONG = {
    "missing": (dict(lm_head__kernel=None), "missing head_text/kernel; not in the model nothing: "),
    "extra": (dict(action_head__kernel=np.zeros((16, 3))), "missing nothing; not in the model head_action/kernel"),
    "shape": (
        dict(delta_head__kernel=np.zeros((16, 9))),
        r"delta_head/kernel is \(16, 9\) there, and head_latent/kernel is \(16, 8\) in the model",
    ),
    "not finite": (dict(delta_head__kernel=NAN), "delta_head/kernel holds infinities or NaN"),
    "unknown": (dict(transformer__mystery=np.zeros(3)), "unknown leaf transformer/mystery"),
    "unknown part": (dict(transformer__h__0__mystery=np.zeros(3)), "unknown leaf transformer/h/0/mystery"),
    "both ways": ({WQ.format(0): np.zeros((16, 16))}, "wq/kernel .* for layers 0 of 1 and for all at once"),
    "layer missing": (
        {WQ.format("scan_decoder"): None, WQ.format(0): np.zeros((16, 16)), WQ.format(2): np.zeros((16, 16))},
        "transformer/h/#/attention/wq/kernel is there for layers 0, 2 of 2",
    ),
    "layers differ": (
        {WQ.format("scan_decoder"): None, WQ.format(0): np.zeros((16, 16)), WQ.format(1): np.zeros((16, 15))},
        r"h/1/attention/wq/kernel is .* \(16, 15\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_differs_is_named(case, stored):
    change, message = WRONG[case]
    path = changed(stored[0], **change)
    with pytest.raises(errors.UserError, match=message) as caught:
        official_lapa.read(path, tree())
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_extra_leaves_are_ignored_when_told_so(stored):
    path = changed(stored[0], action_head__kernel=np.zeros((16, 3)))
    read = official_lapa.read(path, tree(), ignore="^head_action/")
    assert jax.tree.all(jax.tree.map(np.array_equal, read, stored[1]))


def test_vectors_cannot_be_new(stored):
    with pytest.raises(errors.UserError, match=r"body/final_norm/scale \(16,\) cannot be new"):
        official_lapa.read(stored[0], tree(), new="final_norm")


def test_parts_that_the_official_model_does_not_have(tmp_path):
    with pytest.raises(errors.UserError, match="parameter stem/conv/kernel has no place"):
        official_lapa.write(tmp_path / "params", random_values(tree()) | {"stem": {"conv": {"kernel": np.ones(2)}}})
    assert not list(tmp_path.iterdir())


def test_layers_in_the_order_of_their_numbers(tmp_path):
    """Twelve of them, which sort otherwise as text."""
    params = random_values(tree(TINY | {"depth": 12}))
    official_lapa.write(tmp_path / "params", params, None, scan_layers=False)
    keys = [key.split("/")[2] for key in tux_stream.read(tmp_path / "params") if "wq" in key]
    assert keys == sorted(map(str, range(12)))
    read = official_lapa.read(tmp_path / "params", tree(TINY | {"depth": 12}))
    assert jax.tree.all(jax.tree.map(np.array_equal, read, params))


def test_a_file_of_the_published_size_is_indexed_and_not_loaded(tmp_path, monkeypatch):
    """13.6 GB of holes between the heads that tux writes: chunks of 1 GiB, and slices across their borders."""

    def skip(pieces, left, count, file):
        file.truncate(file.seek(count, 1))
        return left

    monkeypatch.setattr(tux_stream, "_copy", skip)
    shapes = lapa_names.to_official(flat(tree(PUBLISHED, 32000, 8448)))
    tux_stream.write(tmp_path / "params", shapes, "bfloat16")
    size = (tmp_path / "params").stat().st_size
    assert 13_615_374_336 < size < 13_615_374_336 + 10_000
    before = resident()
    stored = official_lapa.open_params(tmp_path / "params")
    assert resident() - before < 20e6
    chunks = {path: len(leaf.chunks) for path, leaf in stored.items()}
    assert chunks.pop("body/layers/feed_forward/w1/kernel") == 3 and chunks["body/layers/attention/wq/kernel"] == 1
    w2 = stored["body/layers/feed_forward/w2/kernel"]
    border = (1 << 29) // math.prod(w2.shape[1:])
    with (tmp_path / "params").open("r+b") as file:
        file.seek(w2.chunks[1][0])
        file.write(np.ones(1, ml_dtypes.bfloat16).tobytes())
    part = w2.read((slice(border, border + 1), slice(None), slice(0, 4096)), np.float32)
    at = np.unravel_index((1 << 29) - border * math.prod(w2.shape[1:]), w2.shape[1:])
    assert part.shape == (1, 11008, 4096) and part[0, *at] == part.sum() == 1
    del part
    assert resident() - before < 100e6


def resident():
    """Bytes of memory of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


MEASURE = """
import sys, threading, time
import jax
path, dtype, address, count, rank = sys.argv[1:]
jax.config.update("jax_num_cpu_devices", 8 // int(count))
if int(count) > 1:
    jax.distributed.initialize(address, int(count), int(rank))
sys.path.insert(0, "tests/convert")
import test_official_lapa as t
from lapa_jax.convert import official_lapa

def watch():
    while not done.is_set():
        peak.append(t.resident())
        time.sleep(0.002)

official_lapa.read(path + ".warm", t.on_mesh(t.tree(), data=1, fsdp=4, tensor=2), new="head_latent")
abstract = t.on_mesh(t.tree(t.LARGE, 32000, 8448), dtype, data=1, fsdp=4, tensor=2)
before, peak, done = t.resident(), [], threading.Event()
thread = threading.Thread(target=watch)
thread.start()
params = official_lapa.read(path, abstract)
done.set()
thread.join()
print(sum(shard.data.nbytes for leaf in jax.tree.leaves(params) for shard in leaf.addressable_shards))
print(max(peak) - before, t.resident() - before)
"""
LARGE = dict(width=1024, depth=32, num_heads=16, mlp_dim=2752)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scan_layers, chunk_bytes, dtype, processes",
    [
        (True, 1 << 26, "bfloat16", 1), (True, 1 << 30, "float32", 1), (False, 1 << 30, "bfloat16", 1),
        (True, 1 << 26, "bfloat16", 2),
    ],
)  # fmt: skip
def test_memory_stays_near_that_of_the_parameters(scan_layers, chunk_bytes, dtype, processes, tmp_path):
    """Of 1 GB of bfloat16 (the layers of 7B, a quarter as wide) onto eight devices, of one process or two."""
    shapes = {path: leaf.shape for path, leaf in flat(tree(LARGE, 32000, 8448)).items()}
    noise = np.random.default_rng(0).normal(size=1 << 20).astype(ml_dtypes.bfloat16)
    leaves = {path: np.resize(noise, shape) for path, shape in shapes.items()}
    leaves = lapa_names.to_official(leaves, None if scan_layers else list)
    tux_stream.write(tmp_path / "params", leaves, chunk_bytes=chunk_bytes)
    del leaves
    official_lapa.write(tmp_path / "params.warm", random_values(tree()))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "params"), dtype, address, str(processes)]
    started = [subprocess.Popen([*command, str(i)], cwd=ROOT, stdout=subprocess.PIPE) for i in range(processes)]
    outputs = [child.communicate()[0] for child in started]
    (tmp_path / "params").unlink()
    assert not any(child.returncode for child in started)
    total = sum(map(math.prod, shapes.values())) * (2 if dtype == "bfloat16" else 4)
    for output in outputs:
        size, peak, after = map(int, output.split())
        print(f"{size / 1e9:.2f} GB of parameters, peak {peak / size:.3f}, at the end {after / size:.3f}")
        assert size == pytest.approx(total / processes, rel=1e-3) and 0.9 * size < peak < 1.3 * size
