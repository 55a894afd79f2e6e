"""Which OpenGL MuJoCo draws with. It reads `MUJOCO_GL` once, when it is imported, so this comes before."""

import atexit
import ctypes
import functools
import os
import sys
import weakref
from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

from lapa_jax.envs import extras
from lapa_jax.errors import UserError

# In order of preference; they draw at the same speed without a GPU.
LIBRARIES = {
    "egl": ("libEGL.so.1", "libEGL.so"),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),
}
_RENDERERS: weakref.WeakSet = weakref.WeakSet()
PACKAGES = "on Debian `apt install libegl1 libgl1-mesa-dri`, or `apt install libosmesa6` and MUJOCO_GL=osmesa"


def choose(
    environment: MutableMapping[str, str] = os.environ, load: Callable[[str], Any] = ctypes.CDLL
) -> str | None:
    """Sets `MUJOCO_GL` where it is not set, on Linux; elsewhere MuJoCo needs no help.

    Raises:
        UserError: neither EGL nor OSMesa is there.
    """
    if environment.get("MUJOCO_GL") or sys.platform != "linux":
        return environment.get("MUJOCO_GL")
    for backend, names in LIBRARIES.items():
        if any(_loads(name, load) for name in names):
            environment["MUJOCO_GL"] = backend
            return backend
    raise UserError(f"metaworld cannot draw, neither libEGL nor libOSMesa is installed: {PACKAGES}")


def mujoco() -> ModuleType:
    """The package, with a way to draw.

    Raises:
        UserError: the package or OpenGL is missing.
    """
    choose()
    try:
        import mujoco
    except ModuleNotFoundError:
        return extras.require("mujoco", "metaworld")
    except Exception as error:  # PyOpenGL raises whatever it meets
        raise failed(error) from error
    return mujoco


def closed_at_exit(renderer: Any) -> None:
    """Those still open then would be freed after their display, and print a traceback each."""
    _RENDERERS.add(renderer)
    _once()


@functools.cache
def _once() -> None:
    """After the import of mujoco, whose own exit function then comes later."""
    atexit.register(lambda: [renderer.close() for renderer in _RENDERERS])


def failed(error: Exception) -> UserError:
    """What to raise instead of an error of OpenGL."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    used = os.environ.get("MUJOCO_GL", "unset")
    return UserError(f"metaworld cannot draw with MUJOCO_GL={used} ({reason:.80}): {PACKAGES}")


def _loads(name: str, load: Callable[[str], Any]) -> bool:
    try:
        load(name)
    except OSError:
        return False
    return True
