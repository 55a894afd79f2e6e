"""Environments by name, or by the module that holds one, which is imported only when it is made; see
docs/environments.md."""

import importlib
from types import ModuleType
from typing import Any

from lapa_jax.errors import UserError

MODULES = {
    "tabletop": "lapa_jax.envs.tabletop",
    "metaworld": "lapa_jax.envs.metaworld",
    "language_table": "lapa_jax.envs.language_table",
    "libero": "lapa_jax.envs.libero",
}


def module_path(name: str) -> str:
    """Where `name` lives: a name of `MODULES`, or the dotted path of a module of anyone's."""
    return MODULES.get(name, name)


def make(name: str, **kwargs: Any) -> Any:
    """Builds the gymnasium environment `name`; `kwargs` go to the `make` of its module.

    Raises UserError for an unknown name, or when the environment's optional packages are missing.
    """
    return _of(_module(name), "make", name)(**kwargs)


def expert(name: str, noise: float = 0.0) -> Any:
    """The scripted expert of environment `name`: `.action(env, rng) -> float32[A]`.

    It is the class `Expert` of the environment's module, or of its submodule `expert`.

    Args:
        noise: std of its perturbation, in units of the action.

    Raises UserError for an unknown name, or where there is no expert.
    """
    module = _module(name)
    if not hasattr(module, "Expert"):
        path = f"{module.__name__}.expert"
        try:
            module = importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name not in (path, module.__name__):
                raise
            raise UserError(f"environment {name!r} has no expert: give {path} a class Expert") from error
    return _of(module, "Expert", name)(noise=noise)


def _module(name: str) -> ModuleType:
    path = module_path(name)
    try:
        return importlib.import_module(path)
    except (ModuleNotFoundError, ValueError, TypeError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{path}.".startswith(f"{error.name}."):
            raise  # it is there, and one that it needs is not
        known = ", ".join(sorted(MODULES))
        raise UserError(
            f"unknown environment {name!r}: choose one of {known}, or give the module of your own"
        ) from error


def _of(module: ModuleType, attribute: str, name: str) -> Any:
    found = getattr(module, attribute, None)
    if not callable(found):
        raise UserError(f"environment {name!r}: {module.__name__} has no {attribute} (docs/environments.md)")
    return found
