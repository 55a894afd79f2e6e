"""Policy servers as a person starts them, in processes of their own."""

import contextlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping

from lapa_client import Client
from lapa_jax import errors

ROOT = pathlib.Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def running(policy: str, limits: Mapping[str, float]) -> Iterator[int]:
    """The port of a server that has warmed up.

    Raises:
        UserError: it did not start; its own words are on stderr.
    """
    flags = [f"--config.policy={pathlib.Path(policy).resolve()}", "--config.port=0"]
    flags += [f"--config.limits.{name}={value}" for name, value in limits.items()]
    command = [sys.executable, "experiments/serve.py", "--config=experiments/configs/serve.py", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            port = _port(process)
            Client(f"ws://127.0.0.1:{port}", wait_s=600).close()
            yield port
        finally:
            process.terminate()
            process.communicate()


def _port(process: subprocess.Popen) -> int:
    for line in process.stdout:
        if found := re.search(r" at ws://127\.0\.0\.1:(\d+) ", line):
            return int(found.group(1))
    raise errors.UserError(f"the server ended with status {process.wait()}: see what it said above")
