"""Set-up that must come before the first use of jax, and small datasets that tests share."""

import sys
import tempfile
from pathlib import Path

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", f"{tempfile.gettempdir()}/lapa_jax_test_cache")
flags.FLAGS.mark_as_parsed()  # grain's worker processes read absl flags

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "data" / "tabletop"), str(ROOT / "tests" / "data")]


@pytest.fixture(scope="session")
def tabletop_recipe():
    """A recipe of 3 train, 2 val and 3 labelled episodes in a fake environment, 64 px."""
    import demonstrations

    return demonstrations.Recipe(
        train_episodes=3, val_episodes=2, labelled_episodes=3, environment="fake_tabletop"
    )


@pytest.fixture(scope="session")
def tabletop_dataset(tabletop_recipe, tmp_path_factory):
    """Folder with one dataset made by the real builder; read it only."""
    import build

    out = tmp_path_factory.mktemp("datasets")
    build.build(out, tabletop_recipe, num_workers=0)
    return out


@pytest.fixture(scope="session")
def video_episodes(tabletop_dataset):
    from lapa_jax.data import rlds

    return rlds.open_episodes(tabletop_dataset, "train")


@pytest.fixture(scope="session")
def robot_episodes(tabletop_dataset):
    from lapa_jax.data import rlds

    return rlds.open_episodes(tabletop_dataset, "labelled", view="robot")
