"""What every program does before its own work: flags, devices, the run's folder, one-line errors."""

import logging
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

from lapa_jax import cpu, errors, sharding


def define_config(name: str) -> Any:
    """The flag of a program that leaves no folder: --config=experiments/configs/<name>.py[:size].

    A program that imports another has the flag already, and shares it.
    """
    if "config" in flags.FLAGS:
        return flags.FlagHolder(flags.FLAGS, flags.FLAGS["config"])
    return config_flags.DEFINE_config_file("config", f"experiments/configs/{name}.py", lock_config=True)


def define(name: str) -> tuple[Any, Any]:
    """The two flags of a program: --config and --workdir."""
    config = define_config(name)
    workdir = flags.DEFINE_string("workdir", None, "Checkpoints, metrics and results go here.", required=True)
    return config, workdir


def run(main: Callable[[Any], None]) -> None:
    """Parse the flags and call `main`; a user's mistake ends as one line and exit status 2."""
    with errors.in_one_line():
        app.run(main, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except errors.UserError:
        raise
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        raise errors.UserError(
            f"{_one_line(error)} (see --config's file for its keys and their types, --helpshort for the flags)"
        ) from error


def _one_line(error: BaseException) -> str:
    """What a flag error says, without the traceback that ml_collections puts into its text."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    if "Traceback" in text:
        text = text.strip().splitlines()[-1].removeprefix("lapa_jax.errors.UserError: ")
    return " ".join(text.replace("\\n", " ").split())


def start(config: Any) -> jax.sharding.Mesh:
    """Join the other hosts when asked, set up logs and the compilation cache, build the mesh.

    Raises:
        UserError: the mesh does not fit the devices.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("lapa_jax").setLevel(logging.INFO)
    cache = os.environ.get("LAPA_JAX_CACHE", str(pathlib.Path.home() / ".cache" / "lapa_jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if cpu.several():
        cpu.serve_collectives()
    if config.distributed.enabled:
        jax.distributed.initialize(
            coordinator_address=config.distributed.coordinator,
            num_processes=config.distributed.num_processes,
            process_id=config.distributed.process_id,
        )
    if jax.default_backend() == "cpu":
        cpu.keep_freed_memory()
    return sharding.make_mesh(**config.mesh)


def shares() -> dict[str, int]:
    """This process's share of every stream."""
    return dict(process_index=jax.process_index(), process_count=jax.process_count())
