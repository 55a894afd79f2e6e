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

import lapa_jax
from lapa_jax import checkpoints, cpu, endings, errors, hosts, sharding


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
    """Parse the flags and call `main`; a user's mistake ends as one line and exit status 2.

    Of several processes an error in one ends all.
    """
    with errors.in_one_line(), endings.together():
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


def start(config: Any, share: str = "steps") -> jax.sharding.Mesh:
    """Join the other hosts when asked, set up logs and the compilation cache, build the mesh.

    Args:
        share: what several processes share of this program's work: "steps", which can be left at any SIGTERM,
            "files", each of them a process's own, or "nothing".

    Raises:
        UserError: the mesh does not fit the devices, several processes have nothing to share, do not find each
            other or were started differently.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    logging.getLogger("lapa_jax").setLevel(logging.INFO)
    cache = os.environ.get("LAPA_JAX_CACHE", str(pathlib.Path.home() / ".cache" / "lapa_jax"))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    if cpu.several() or config.distributed.enabled:
        cpu.serve_collectives()
    if config.distributed.enabled and share == "nothing":
        raise errors.UserError("this program is of one process: leave --config.distributed.enabled away")
    hosts.join(**config.distributed)
    endings.watch()
    if share == "files":
        endings.fail_alone()
    hosts.agree(_alike(config), OWN)
    if jax.default_backend() == "cpu":
        cpu.keep_freed_memory()
        if hosts.several():
            cpu.compile_alike()
    return sharding.make_mesh(**config.mesh)


OWN = ("config.distributed.process_id", "config.distributed.local_devices", "config.distributed.coordinator")
"""Keys that processes of one run may differ in."""


def _alike(config: Any) -> dict[str, Any]:
    """What all processes of a run have to have in common."""
    flags_given = flags.FLAGS.flag_values_dict() if flags.FLAGS.is_parsed() else {}
    versions = {"version of jax": jax.__version__, "version of lapa_jax": lapa_jax.__version__}
    return checkpoints.flatten({"config": config.to_dict(), "workdir": flags_given.get("workdir"), **versions})


def shares(mesh: jax.sharding.Mesh | None = None) -> dict[str, int]:
    """This process's share of the rows of a batch over `mesh`, or of what processes do each by itself."""
    if mesh is not None:
        return sharding.batch_share(mesh)
    return dict(process_index=jax.process_index(), process_count=jax.process_count())
