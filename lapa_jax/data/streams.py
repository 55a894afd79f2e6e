"""Batches as a pure function of (seed, batch number), from numbered examples of one or several datasets.

There is no shuffle buffer: indices are shuffled and frames read on demand, so that memory is flat, a
resumed stream continues exactly, and any number of processes and workers sees the same global batches.
"""

import dataclasses
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from lapa_jax import errors
from lapa_jax.data import transforms
from lapa_jax.data.tables import mixtures

Batch = dict[str, np.ndarray]
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]
Example = Callable[[tuple[int, int], np.random.Generator], Batch]


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples come when, and which of them this process gets.

    Attributes:
        batch_size: global; each process gets `batch_size / process_count` of it.
        seed: of the shuffle and of every random choice.
        shuffle: a new order in each epoch; False reads in stored order.
        repeat: forever, full batches only; False is one epoch with a partial last batch (of
            several processes, some may then get one batch fewer).
        process_index: this process, 0 <= process_index < process_count.
        process_count: the local batches of all processes, one after the other, are the global batch.
        num_threads: that read ahead; 0 reads when asked.
        num_workers: processes that read ahead, each with `num_threads`; 0 reads in this one.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    repeat: bool = True
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 2
    num_workers: int = 0

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise errors.UserError(
                f"batch_size {self.batch_size} does not divide over {self.process_count} "
                "processes; choose a positive multiple"
            )
        if not 0 <= self.process_index < self.process_count:
            raise errors.UserError(f"process_index {self.process_index} is outside 0..{self.process_count - 1}")
        if self.num_threads < 0 or self.num_workers < 0:
            raise errors.UserError(
                f"{self.num_threads} threads and {self.num_workers} workers; neither can be less than 0"
            )

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count


@dataclasses.dataclass(frozen=True)
class Part:
    """The examples of one dataset.

    Attributes:
        index: number -> (episode, step).
        example: (episode, step), generator -> arrays of one example.
        name: of the dataset and of all choices that its examples hang on.
        weight: see `mixtures.probabilities`.
        size: (episode, step) -> places that the example takes in a row, at most; where rows are shared.
    """

    index: transforms.StepIndex
    example: Example
    name: str
    weight: float = 1.0
    size: Callable[[tuple[int, int]], int] | None = None


class Stream:
    """An iterator of batches whose position can be saved and restored.

    Attributes:
        spec: name -> (shape, dtype) of a full local batch.
        num_examples: examples in one epoch, over all processes and datasets.
    """

    def __init__(self, parts: Sequence[Part], order: Order, balance: bool = True):
        self.num_examples = sum(len(part.index) for part in parts)
        self._order, self._taken, self._iterator = order, 0, None
        self._identity = identity(parts, order, balance)
        self.spec = spec(parts, order.local_batch_size)
        self._dataset = _local_batches(examples(parts, order, balance), order)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        if self._iterator is None:
            self._iterator = _read_ahead(self._dataset[self._taken :], self._order)
        batch = next(self._iterator)
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch taken, as values that JSON can hold."""
        return {"batches": self._taken, **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch at which `state` was taken, with any number of processes and workers.

        Raises:
            UserError: the state is of another stream: other data, seed or batch size.
        """
        check_state(state, self._identity)
        self._taken, self._iterator = int(state["batches"]), None


def identity(parts: Sequence[Part], order: Order, balance: bool) -> dict[str, Any]:
    """All that the batches of a stream hang on."""
    names = {"batch_size": order.batch_size, "seed": order.seed, "shuffle": order.shuffle}
    return names | {"stream": _joined(parts, balance)}


def check_state(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Raises UserError when a state is of a stream of another identity, or of none."""
    for name, value in own.items():
        if state.get(name) != value:
            raise errors.UserError(
                f"cannot resume the data: {name} was {state.get(name)!r} and is now {value!r};"
                " use the old value or start a new run"
            )
    if not isinstance(state.get("batches"), int):
        raise errors.UserError("cannot resume the data: the state has no position; start a new run")


class Zipped:
    """Batches of several streams side by side: keys of stream p are `p` + key. An empty prefix changes nothing."""

    def __init__(self, streams: Mapping[str, Stream]):
        self._streams = dict(streams)

    def __iter__(self) -> "Zipped":
        return self

    def __next__(self) -> Batch:
        return {prefix + key: rows for prefix, one in self._streams.items() for key, rows in next(one).items()}

    def get_state(self) -> dict[str, Any]:
        """The positions of all."""
        return {"zipped": {prefix: one.get_state() for prefix, one in self._streams.items()}}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Raises UserError when the state is of other streams."""
        states = state.get("zipped", {})
        if set(states) != set(self._streams):
            raise errors.UserError(
                f"cannot resume the data: there were streams {sorted(states)} and now are {sorted(self._streams)}"
            )
        for prefix, one in self._streams.items():
            one.set_state(states[prefix])


def hashed(kind: str, identity: Any) -> str:
    """A name for all that examples hang on."""
    return f"{kind}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}"


def _joined(parts: Sequence[Part], balance: bool) -> str:
    if len(parts) == 1:
        return parts[0].name
    return hashed("mixture", (balance, [(part.name, part.weight) for part in parts]))


def spec(parts: Sequence[Part], rows: int, row: Callable[[Any], Batch] = lambda example: example) -> Spec:
    """Shapes of a batch, from the first example of each dataset; they must agree.

    Args:
        row: what becomes of an example alone in its row.
    """
    specs = []
    for part in parts:
        first = row(part.example(part.index[0], np.random.default_rng(0)))
        specs.append({k: ((rows, *v.shape), v.dtype) for k, v in first.items()})
        if specs[-1] != specs[0]:
            different = next(k for k in specs[0] if specs[-1].get(k) != specs[0][k])
            raise errors.UserError(
                f"the datasets of a mixture differ in {different}: {specs[0][different][0][1:]} and "
                f"{specs[-1].get(different, ((0,),))[0][1:]}; set data.image_size, or mix datasets of one kind"
            )
    return specs[0]


def examples(parts: Sequence[Part], order: Order, balance: bool) -> grain.MapDataset[Any]:
    """Number -> example, in the order of all processes together."""
    # Random choices are made before the split over processes: they hang on the position in the dataset.
    return _mixed(parts, order, balance, lambda part, dataset: dataset.random_map(part.example))


def sizes(parts: Sequence[Part], order: Order, balance: bool) -> grain.MapDataset[int]:
    """Number -> places that the example takes in a row; nothing of it is read."""
    return _mixed(parts, order, balance, lambda part, dataset: dataset.map(part.size))


def _mixed(
    parts: Sequence[Part], order: Order, balance: bool, of: Callable[[Part, grain.MapDataset], grain.MapDataset]
) -> grain.MapDataset[Any]:
    if len(parts) > 1 and not order.repeat:
        raise errors.UserError("one epoch of a mixture is not defined; read its datasets one by one")
    datasets = [of(part, _shuffled(part, order, alone=len(parts) == 1)) for part in parts]
    if len(parts) == 1:
        return datasets[0]
    counts = [len(part.index) for part in parts]
    weights = mixtures.probabilities([part.weight for part in parts], counts, balance)
    return grain.MapDataset.mix(datasets, weights.tolist())


def _local_batches(dataset: grain.MapDataset, order: Order) -> grain.MapDataset[Batch]:
    """Batch number -> local batch."""
    batches = dataset.batch(order.local_batch_size, drop_remainder=order.repeat)
    return batches if order.process_count == 1 else batches[order.process_index :: order.process_count]


def _shuffled(part: Part, order: Order, alone: bool) -> grain.MapDataset[Batch]:
    seed = order.seed if alone else zlib.crc32(f"{order.seed} {part.name}".encode())
    dataset = grain.MapDataset.source(part.index).seed(seed)
    if order.shuffle:
        dataset = dataset.shuffle()
    return dataset.repeat() if order.repeat else dataset


def _read_ahead(dataset: grain.MapDataset[Batch], order: Order) -> Any:
    ahead = 2 * order.num_threads
    options = grain.ReadOptions(num_threads=order.num_threads, prefetch_buffer_size=ahead)
    batches = dataset.to_iter_dataset(options)
    if order.num_workers:
        if not flags.FLAGS.is_parsed():  # grain's workers read absl flags
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=order.num_workers))
    return iter(batches)
