"""Optional packages of the environments, and what a user does when one is missing."""

import importlib
from types import ModuleType

from lapa_jax.errors import UserError


def require(package: str, environment: str, extra: str | None = None) -> ModuleType:
    """Imports `package`, or raises a UserError that says how to install it.

    Args:
        environment: the name that a user knows it by.
        extra: of setup.cfg; None is the environment's name.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise UserError(
            f"the {environment} environment needs {package}: run `pip install -e .[{extra or environment}]`"
        ) from error
