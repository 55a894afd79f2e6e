"""Set-up that must come before the first use of jax, and small datasets that tests share."""

import gc
import importlib
import os
import sys
import tempfile
import types
from pathlib import Path

import filelock
import hypothesis
import jax
import pytest
import slow_list
from absl import flags

from lapa_jax import cpu

# Of XLA's two ways to make code of a fusion the older one compiles a training step in a fifth of the time.
FAST = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FAST}"
jax.config.update("jax_num_cpu_devices", 8)
cpu.serve_collectives()
os.environ["LAPA_JAX_CACHE"] = f"{tempfile.gettempdir()}/lapa_jax_test_cache"  # programs obey it too
jax.config.update("jax_compilation_cache_dir", os.environ["LAPA_JAX_CACHE"])
jax.config.update("jax_disable_most_optimizations", True)  # programs here run once: compile them fast
jax.config.update("jax_traceback_in_locations_limit", 0)
gc.set_threshold(200_000, 50, 1000)  # tracing makes many objects, and few of them in cycles
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags

# The same examples in every run, so that a red run is red again; `--hypothesis-profile=default` searches anew.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).resolve().parent.parent
PLACES = ("client", "data/simulated", "tests/data", "tests/serving", "experiments")
sys.path[:0] = [str(ROOT / path) for path in PLACES]


# Workers of pytest-xdist take files in this order: what is long begins first, and no worker ends alone with it. The
# first two share no compiled program, or both workers would begin by compiling the same.
LONG = ("vlm_variants", "text_models", "starts", "programs", "attention", "import_page", "train_tokenizer")


def pytest_collection_modifyitems(items):
    place = {f"test_{name}": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))
    slow = slow_list.lines()
    for item in items:
        if slow & slow_list.names(item):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_end_with_their_module():
    """Kept ones add up to gigabytes in a worker over the suite."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def shared():
    """Folder of real data and recorded arrays beside the checkout; a fresh clone has none of it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no {folder}: the sample data is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def tabletop_recipe():
    """A recipe of 3 train, 2 val and 3 labelled episodes in a fake environment, 64 px."""
    import demonstrations

    return demonstrations.Recipe(
        train_episodes=3, val_episodes=2, labelled_episodes=3, environment="fake_tabletop"
    )


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """(name, make) -> a folder that `make(folder)` filled, in one process of pytest-xdist for all; read it only."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base

    def get(name, make):
        folder, finished = base / "once" / name, base / "once" / f"{name}.finished"
        folder.parent.mkdir(exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not finished.exists():
                make(folder)
                finished.touch()
        return folder

    return get


@pytest.fixture(scope="session")
def tabletop_dataset(tabletop_recipe, once):
    """Folder with one dataset made by the real builder; read it only."""
    import build

    return once("datasets", lambda out: build.build(out, tabletop_recipe, num_workers=0))


@pytest.fixture(scope="session")
def video_episodes(tabletop_dataset):
    from lapa_jax.data import rlds

    return rlds.open_episodes(tabletop_dataset, "train")


@pytest.fixture(scope="session")
def robot_episodes(tabletop_dataset):
    from lapa_jax.data import rlds

    return rlds.open_episodes(tabletop_dataset, "labelled", view="robot")


@pytest.fixture(scope="session")
def load_config():
    """(program, size="tiny", **{dotted key: value}) -> its locked config, as the command line makes it."""

    def load(name, size="tiny", **changes):
        config = importlib.import_module(f"configs.{name}").get_config(size)
        config.lock()
        config.update_from_flattened_dict(changes)
        return config

    return load


@pytest.fixture(scope="session")
def programs():
    """name -> the module of an experiment, imported with flags that a test can set."""
    import launch

    def define(_):
        return types.SimpleNamespace(value=None), types.SimpleNamespace(value=None)

    launch.cpu.keep_freed_memory = lambda: False  # tests measure the memory of this process
    original, launch.define = launch.define, define
    names = ("train_laq", "train_tokenizer", "encode_frames", "label_latents", "pretrain_vlm", "finetune")
    names += ("evaluate", "rollout_latents", "check_replay", "check_served")
    modules = {name: importlib.import_module(name) for name in names}
    launch.define = original
    return modules


@pytest.fixture(scope="session")
def run_program(programs, load_config):
    """(program, workdir, size="tiny", **{dotted key: value}): its `main`, in this process."""

    def run(name, workdir, size="tiny", **changes):
        program = programs[name]
        program.CONFIG.value = load_config(name, size, **changes)
        program.WORKDIR.value = str(workdir)
        program.main([])

    return run


@pytest.fixture(scope="session")
def tiny_run(run_program, tabletop_dataset, once):
    """name -> folder of a finished tiny run, made when it is first asked for; read it only."""
    data = {"data.directory": str(tabletop_dataset)}
    changes = {
        "train_laq": lambda: data,
        "label_latents": lambda: {"laq": str(run("train_laq"))},
        "train_tokenizer": lambda: data,
        "pretrain_vlm": lambda: data | {"data.latents": str(run("label_latents"))},
        "finetune": lambda: data | {"vlm": str(run("pretrain_vlm"))},
    }

    def run(name):
        needed = changes[name]()
        return once(name, lambda folder: run_program(name, folder, **needed))

    return run
