"""Sequences of the official language model as batches of inputs and the tokens that follow them.

Batches are dicts: tokens and targets int32[B, T], kinds and target_kinds int8[B, T], loss_mask bool[B, T]. Those of
`fit_together` also have segments int32[B, T]: 0 for padding, and the number of the sequence in its row.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lapa_jax import errors, vocab
from lapa_jax.data.official_prompts import PAD_ID, Tokens

Batch = dict[str, np.ndarray]


def pad(sequences: Sequence[Tokens], length: int, legacy: bool = False) -> Batch:
    """One sequence a row, filled up on the right.

    Args:
        length: of the rows, one less than that of the longest sequence they hold.
        legacy: longer sequences lose their end, which is where the targets are, and their loss is one place off, as
            in the official code.

    Raises:
        UserError: a sequence is longer, and not `legacy`.
    """
    if not legacy:
        _that_fits(max(sequences, key=lambda sequence: len(sequence.tokens)), length)
    batch = _blank(len(sequences), length)
    for row, (tokens, kinds, loss) in enumerate(sequences):
        size = min(len(tokens) - 1, length)
        late = 1 + (legacy and len(tokens) > length)
        batch["tokens"][row, :size], batch["targets"][row, :size] = tokens[:size], tokens[1 : size + 1]
        batch["kinds"][row, :size], batch["target_kinds"][row, :size] = kinds[:size], kinds[1 : size + 1]
        batch["loss_mask"][row, : size + 1 - late] = loss[late : size + 1]
    return batch


def _blank(rows: int, length: int) -> Batch:
    """Nothing but padding."""
    ids = {name: np.full((rows, length), PAD_ID, np.int32) for name in ("tokens", "targets")}
    kinds = {name: np.full((rows, length), vocab.TEXT, np.int8) for name in ("kinds", "target_kinds")}
    return ids | kinds | {"loss_mask": np.zeros((rows, length), bool)}


def pack(sequences: Iterable[Tokens], batch_size: int, length: int) -> Iterator[Batch]:
    """Sequences one after the other, cut into rows wherever these end; nothing tells them apart in the attention.

    What is left at the end and does not fill a batch is dropped.
    """
    size = batch_size * length
    rest = [np.zeros(0, dtype) for dtype in (np.int32, np.int8, bool)]
    for sequence in sequences:
        rest = [np.concatenate(pair) for pair in zip(rest, sequence, strict=True)]
        while len(rest[0]) > size:
            tokens, kinds, loss = (part[: size + 1] for part in rest)
            rest = [part[size:] for part in rest]
            batch = dict(
                tokens=tokens[:-1], targets=tokens[1:], kinds=kinds[:-1], target_kinds=kinds[1:], loss_mask=loss[1:]
            )
            yield {name: values.reshape(batch_size, length) for name, values in batch.items()}


def fit_together(sequences: Iterable[Tokens], batch_size: int, length: int, window: int = 64) -> Iterator[Batch]:
    """Several whole sequences a row, told apart by segments: none is cut, none sees another.

    Of the `window` sequences at hand, the longest that still fits goes next into a row. The last batch may have
    rows of padding only.

    Args:
        length: of the rows. A sequence takes one place less than it has tokens.

    Raises:
        UserError: a sequence is longer than a row.
    """
    waiting: list[Tokens] = []
    source, ended = iter(sequences), False
    while True:
        while not ended and len(waiting) < max(window, batch_size):
            one = next(source, None)
            ended = one is None
            if one is not None:
                waiting.append(_that_fits(one, length))
        if not waiting:
            return
        batch = _blank(batch_size, length) | {"segments": np.zeros((batch_size, length), np.int32)}
        for row in range(batch_size):
            _fill(batch, row, waiting)
        yield batch


def _that_fits(sequence: Tokens, length: int) -> Tokens:
    if len(sequence.tokens) > length + 1:
        raise errors.UserError(
            f"a sequence has {len(sequence.tokens)} tokens and a row takes {length + 1}: make rows longer"
        )
    return sequence


def _fill(batch: Batch, row: int, waiting: list[Tokens]) -> None:
    """Move sequences from `waiting` into a row until none fits."""
    start, segment, length = 0, 1, batch["tokens"].shape[1]
    while fitting := [i for i, one in enumerate(waiting) if len(one.tokens) - 1 <= length - start]:
        longest = max(fitting, key=lambda i: len(waiting[i].tokens))
        tokens, kinds, loss = waiting.pop(longest)
        place = slice(start, start + len(tokens) - 1)
        batch["tokens"][row, place], batch["targets"][row, place] = tokens[:-1], tokens[1:]
        batch["kinds"][row, place], batch["target_kinds"][row, place] = kinds[:-1], kinds[1:]
        batch["loss_mask"][row, place], batch["segments"][row, place] = loss[1:], segment
        start, segment = place.stop, segment + 1
