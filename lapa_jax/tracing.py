"""Which steps of a run are profiled: a trace for XProf and Perfetto in the run's folder."""

import pathlib
import re

import jax

from lapa_jax import errors


def parse(steps: str, num_steps: int) -> range:
    """"10:15" -> the steps 10 to 15, both included, as the log numbers them; "" -> none.

    Raises:
        UserError: no such range, or one that the run does not come to.
    """
    if not steps:
        return range(0)
    found = re.fullmatch(r"(\d+):(\d+)", steps)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not 1 <= first <= last:
        raise errors.UserError(
            f"profile.steps={steps!r} is no range of steps: give FIRST:LAST, such as 10:15, counted from 1"
        )
    if last > num_steps:
        raise errors.UserError(f"profile.steps={steps!r} goes past the end of the run: num_steps is {num_steps}")
    return range(first, last + 1)


class Trace:
    """A trace of some steps by `jax.profiler`, of process 0 and its devices: all do the same at the same time.

    Args:
        steps: the numbers of these; of a run that is resumed among them, those that are left.
        folder: `plugins/profile/TIME` is made in it.
    """

    def __init__(self, steps: range, folder: str | pathlib.Path) -> None:
        self._steps, self._folder = steps, pathlib.Path(folder)
        self._on = False

    def begins(self, step: int) -> bool:
        """Whether `start` is to be called before this step."""
        return step in self._steps and not self._on and jax.process_index() == 0

    def ends(self, step: int) -> bool:
        """Whether `stop` is to be called after this step."""
        return self._on and step == self._steps[-1]

    def start(self) -> None:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0  # each call of Python would be noted, which slows it down several times
        jax.profiler.start_trace(self._folder, create_perfetto_trace=True, profiler_options=options)
        self._on = True

    def stop(self) -> None:
        self._on = False
        jax.profiler.stop_trace()
        first, last = self._steps[0], self._steps[-1]
        print(f"[profile] steps {first} to {last} are in {self._folder}: see docs/speed.md", flush=True)

    def close(self) -> None:
        """Ends a trace that a failed run left open."""
        if self._on:
            self.stop()


OFF = Trace(range(0), "")
