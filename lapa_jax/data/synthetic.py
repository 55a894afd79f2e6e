"""A stream that reads nothing: what a run costs without its input."""

from collections.abc import Mapping
from typing import Any

from lapa_jax import errors
from lapa_jax.data.streams import Batch


class Repeated:
    """The first batch of a stream, read once and given again and again.

    It is a real one, since shapes and dtypes are not all that a step's time hangs on: ids must be rows of tables,
    rows as full as they are in training, and images such that nothing becomes NaN.

    Args:
        stream: with `get_state` and `set_state`; what it reads ahead is given up after the first batch.
    """

    def __init__(self, stream: Any) -> None:
        self._stream, self._batch, self._taken = stream, None, 0

    def __iter__(self) -> "Repeated":
        return self

    def __next__(self) -> Batch:
        if self._batch is None:
            start = self._stream.get_state()
            self._batch = next(self._stream)
            self._stream.set_state(start)  # its threads and workers end
        self._taken += 1
        return self._batch

    def get_state(self) -> dict[str, Any]:
        """How many batches were given: nobody's position."""
        return {"synthetic": self._taken}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """
        Raises:
            UserError: the state is of a stream that reads.
        """
        if "synthetic" not in state:
            raise errors.UserError("cannot resume the data: this run was not synthetic; start a new run")
        self._taken = int(state["synthetic"])
