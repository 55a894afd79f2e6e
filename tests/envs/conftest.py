"""Environments that tests go through, and the adapter of docs/environments.md as a module."""

import contextlib
import importlib.util
import pathlib
import sys

import pages
import pytest

NEEDS = {"tabletop": ("pybullet", "tabletop"), "metaworld": ("metaworld", "metaworld")}
"""Environment -> the package that it needs and its extra. No importorskip: mujoco reads MUJOCO_GL when imported."""


@pytest.fixture(scope="session")
def my_dots(tmp_path_factory):
    """The name of the module that the page has its reader write."""
    folder = tmp_path_factory.mktemp("my_dots")
    (folder / "my_dots.py").write_text("\n\n".join(pages.programs(pages.read("environments.md"))))
    sys.path.insert(0, str(folder))
    yield "my_dots"
    sys.path.remove(str(folder))


@pytest.fixture
def stand_in(monkeypatch):
    """(package): around a test, its stand-in below fakes/ takes the place of the package, imported afresh."""

    def loaded(package):
        return [name for name in sys.modules if name.split(".")[0] == package]

    @contextlib.contextmanager
    def around(package):
        for name in loaded(package):
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parent / "fakes"))
        yield
        for name in loaded(package):
            del sys.modules[name]

    return around


@pytest.fixture
def needs(request):
    """name of an environment -> itself; skips where its package is missing."""

    def get(name):
        if name == "my_dots":
            return request.getfixturevalue("my_dots")
        package, extra = NEEDS[name]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{name} needs `pip install -e .[{extra}]`")
        return name

    return get
