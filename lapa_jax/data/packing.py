"""Which examples share a row: decided by their sizes alone, before anything of them is read."""

import bisect
from collections.abc import Callable
from typing import Any


class Planner:
    """Gives rows of example numbers; every example is in one row, whole.

    A row begins with the example that has waited longest, so that none waits forever, and takes the largest of
    those at hand that still fits until none does.

    Args:
        size: number of an example -> places that it takes, 1 to `length`; None past the last one. Asked in order.
        length: places in a row.
        window: examples at hand.
    """

    def __init__(self, size: Callable[[int], int | None], length: int, window: int) -> None:
        self._size, self._length, self._window = size, length, window
        self._start(0, [])

    def batch(self, rows: int) -> list[list[int]]:
        """The numbers in each of the next `rows` rows; rows are empty once all examples are placed."""
        return [self._row() for _ in range(rows)]

    def get_state(self) -> dict[str, Any]:
        """As values that JSON can hold."""
        return {"next": self._next, "waiting": list(self._waiting)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes on from `get_state` of a planner over the same examples."""
        self._start(state["next"], state["waiting"])

    def _start(self, following: int, waiting: list[int]) -> None:
        self._next, self._ended = following, False
        self._waiting: dict[int, int] = {}  # number -> size, oldest first
        self._by_size: list[tuple[int, int]] = []  # (size, -number), rising
        for number in waiting:
            self._add(number, self._size(number))

    def _add(self, number: int, size: int) -> None:
        self._waiting[number] = size
        bisect.insort(self._by_size, (size, -number))

    def _refill(self) -> None:
        while not self._ended and len(self._waiting) < self._window:
            size = self._size(self._next)
            self._ended = size is None
            if size is not None:
                self._add(self._next, size)
                self._next += 1

    def _row(self) -> list[int]:
        row, left = [], self._length
        self._refill()
        number = next(iter(self._waiting), None)
        while number is not None:
            row.append(number)
            left -= self._taken(number)
            self._refill()
            number = self._largest(left)
        return row

    def _taken(self, number: int) -> int:
        size = self._waiting.pop(number)
        del self._by_size[bisect.bisect_left(self._by_size, (size, -number))]
        return size

    def _largest(self, left: int) -> int | None:
        """The largest that fits; of equals the oldest."""
        at = bisect.bisect_right(self._by_size, (left, 0)) - 1
        return None if at < 0 else -self._by_size[at][1]
