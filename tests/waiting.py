"""How long a test waits for what must come: long, since the machine may be busy with something else."""

import time

PATIENCE = 180  # seconds


def until(true):
    """Returns once `true()`; AssertionError where it never comes."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)
