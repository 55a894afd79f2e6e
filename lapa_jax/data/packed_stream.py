"""A stream whose rows hold several examples each; as exact on a resume as one example a row."""

import collections
import concurrent.futures
from collections.abc import Mapping, Sequence
from typing import Any

from lapa_jax import errors
from lapa_jax.data import latent_rows, packing, sequences, streams
from lapa_jax.data.streams import Batch, Order, Part


class PackedStream:
    """Batches of rows that are filled by `packing.Planner`.

    Every process plans all rows, by sizes alone, and reads those of its own: their local batches, one after the
    other, are the global batch, as in `streams.Stream`. The position is that of the planner.

    Attributes:
        spec, num_examples: as of `streams.Stream`.

    Raises:
        UserError: an order that rows cannot be shared in.
    """

    def __init__(self, parts: Sequence[Part], order: Order, rows: latent_rows.Rows, balance: bool = True) -> None:
        if not order.repeat or order.num_workers:
            raise errors.UserError("shared rows are read by threads and forever: set data.num_workers=0")
        self.num_examples = sum(len(part.index) for part in parts)
        self._order, self._rows = order, rows
        self._identity = streams.identity(parts, order, balance)
        self._examples = streams.examples(parts, order, balance)
        sizes = streams.sizes(parts, order, balance)
        self._planner = packing.Planner(sizes.__getitem__, rows.length, rows.window)
        self._pool = concurrent.futures.ThreadPoolExecutor(max(order.num_threads, 1))
        self._ahead: collections.deque[tuple[list[concurrent.futures.Future], dict]] = collections.deque()
        self._state = {"batches": 0, **self._planner.get_state()}
        self.spec = streams.spec(parts, order.local_batch_size, lambda example: rows.together([example]))

    def __iter__(self) -> "PackedStream":
        return self

    def __next__(self) -> Batch:
        while len(self._ahead) < 1 + min(self._order.num_threads, 2):
            self._ahead.append(self._begin())
        rows, self._state = self._ahead.popleft()
        return sequences.stack([row.result() for row in rows])

    def get_state(self) -> dict[str, Any]:
        """As of `streams.Stream`."""
        return {**self._state, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """As of `streams.Stream`."""
        streams.check_state(state, self._identity)
        self._state = {key: state[key] for key in ("batches", "next", "waiting")}
        self._planner.set_state(self._state)
        self._ahead.clear()

    def _begin(self) -> tuple[list[concurrent.futures.Future], dict[str, Any]]:
        """The next batch, being read, and the position after it."""
        batches = 1 + (self._ahead[-1][1] if self._ahead else self._state)["batches"]
        first = self._order.process_index * self._order.local_batch_size
        mine = self._planner.batch(self._order.batch_size)[first : first + self._order.local_batch_size]
        after = {"batches": batches, **self._planner.get_state()}
        return [self._pool.submit(self._read, row) for row in mine], after

    def _read(self, numbers: Sequence[int]) -> Batch:
        return self._rows.together([self._examples[number] for number in numbers])
