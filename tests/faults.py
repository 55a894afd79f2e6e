"""A program of experiments/ with something that happens to it: python tests/faults.py PROGRAM FLAGS.

$JOB_FAULT says what: "slow", "stuck STEP" or "raise STEP"; $JOB_PROCESS which process this is.
"""

import os
import pathlib
import runpy
import sys
import time

from lapa_jax import checkpoints

NAME, _, STEP = os.environ["JOB_FAULT"].partition(" ")
due, rename = checkpoints.Checkpoints.due, os.rename


def slow(self, step):
    """Steps take long enough for a signal to come between them."""
    time.sleep(0.3)
    return due(self, step)


def failing(self, step):
    """Process 1 fails after a step."""
    if os.environ["JOB_PROCESS"] == "1" and step == int(STEP):
        raise RuntimeError("the disk of this host is on fire")
    return due(self, step)


def stuck(source, to, **keys):
    """Process 0 never gives a checkpoint, written whole, its name."""
    if pathlib.Path(to).name == STEP:
        print(f"stuck at {to}", flush=True)
        time.sleep(600)
    return rename(source, to, **keys)


if NAME == "stuck":
    os.rename = stuck
else:
    checkpoints.Checkpoints.due = {"slow": slow, "raise": failing}[NAME]
del sys.argv[0]
sys.path[0] = str(pathlib.Path(sys.argv[0]).parent)
runpy.run_path(sys.argv[0], run_name="__main__")
