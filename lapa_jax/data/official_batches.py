"""Sequences of the official language model as batches of inputs and the tokens that follow; see `sequences`."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lapa_jax import errors
from lapa_jax.data import packing, sequences
from lapa_jax.data.sequences import Batch, Tokens


def pad(given: Sequence[Tokens], length: int, legacy: bool = False) -> Batch:
    """One sequence a row, filled up on the right.

    Args:
        length: of the rows, one less than that of the longest sequence they hold.
        legacy: longer sequences lose their end, which is where the targets are, and their loss is one place off, as
            in the official code.

    Raises:
        UserError: a sequence is longer, and not `legacy`.
    """
    return sequences.stack([_cut(one, length) if legacy else sequences.row([one], length) for one in given])


def _cut(one: Tokens, length: int) -> Batch:
    short = Tokens(*(part[: length + 1] for part in one))
    row = sequences.row([short], length)
    if one.size > length:
        row["loss_mask"] = np.append(one.loss[2 : length + 1], False)
    return row


def pack(given: Iterable[Tokens], batch_size: int, length: int) -> Iterator[Batch]:
    """Sequences one after the other, cut into rows wherever these end; nothing tells them apart in the attention.

    As the official code packs. What is left at the end and does not fill a batch is dropped.
    """
    size = batch_size * length
    rest = [np.zeros(0, dtype) for dtype in (np.int32, np.int8, bool)]
    for sequence in given:
        rest = [np.concatenate(pair) for pair in zip(rest, sequence, strict=True)]
        while len(rest[0]) > size:
            tokens, kinds, loss = (part[: size + 1] for part in rest)
            rest = [part[size:] for part in rest]
            batch = dict(
                tokens=tokens[:-1], targets=tokens[1:], kinds=kinds[:-1], target_kinds=kinds[1:], loss_mask=loss[1:]
            )
            yield {name: values.reshape(batch_size, length) for name, values in batch.items()}


def fit_together(given: Iterable[Tokens], batch_size: int, length: int, window: int = 64) -> Iterator[Batch]:
    """Several whole sequences a row, told apart by segments: none is cut, none sees another.

    The last batch may have rows of padding only.

    Args:
        length: of the rows. A sequence takes one place less than it has tokens.
        window: sequences at hand to choose from, see `packing.Planner`.

    Raises:
        UserError: a sequence is longer than a row.
    """
    source, held = iter(given), {}

    def size(number: int) -> int | None:
        one = next(source, None)
        if one is None:
            return None
        if one.size > length:
            raise errors.UserError(
                f"a sequence has {one.size + 1} tokens and a row takes {length + 1}: make rows longer"
            )
        held[number] = one
        return one.size

    planner = packing.Planner(size, length, max(window, batch_size))
    while any(rows := planner.batch(batch_size)):
        yield sequences.stack([sequences.row([held.pop(i) for i in row], length) for row in rows])
