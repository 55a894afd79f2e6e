"""Sequences of tokens, and the rows of a batch that they stand in.

Batches are dicts: tokens and targets int32[B, T], kinds and target_kinds int8[B, T], loss_mask bool[B, T], and
segments int32[B, T]: 0 for padding, else the number of the sequence in its row. A place holds a token and the one
that follows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lapa_jax import errors, vocab

Batch = dict[str, np.ndarray]

PAD_ID = vocab.LLAMA_BOS_ID
"""Padding of rows, as in the official code; what is padding is said by the segments."""


class Tokens(NamedTuple):
    """A sequence: ids int32[T], the vocabulary of each int8[T] (`vocab`), and whether it is a target bool[T]."""

    tokens: np.ndarray
    kinds: np.ndarray
    loss: np.ndarray

    @property
    def size(self) -> int:
        """Places that it takes in a row: the last token is a target only."""
        return len(self.tokens) - 1


def join(*parts: tuple[Sequence[int], int, bool]) -> Tokens:
    """A sequence from (ids, their kind, whether they are targets), one part after the other."""
    lengths = [len(ids) for ids, _, _ in parts]
    return Tokens(
        np.concatenate([np.asarray(ids, np.int32) for ids, _, _ in parts]),
        np.repeat(np.array([kind for _, kind, _ in parts], np.int8), lengths),
        np.repeat([loss for _, _, loss in parts], lengths),
    )


def blank(length: int) -> Batch:
    """A row [T] with nothing but padding."""
    ids = {name: np.full(length, PAD_ID, np.int32) for name in ("tokens", "targets")}
    kinds = {name: np.full(length, vocab.TEXT, np.int8) for name in ("kinds", "target_kinds")}
    return ids | kinds | {"loss_mask": np.zeros(length, bool), "segments": np.zeros(length, np.int32)}


def row(sequences: Sequence[Tokens], length: int) -> Batch:
    """A row [T] of whole sequences, one after the other, each a segment.

    Raises:
        UserError: they are longer than the row.
    """
    if sum(one.size for one in sequences) > length:
        sizes = " + ".join(str(one.size + 1) for one in sequences)
        raise errors.UserError(f"a sequence has {sizes} tokens and a row takes {length + 1}: make rows longer")
    out, start = blank(length), 0
    for segment, (tokens, kinds, loss) in enumerate(sequences, 1):
        place = slice(start, start + len(tokens) - 1)
        out["tokens"][place], out["targets"][place] = tokens[:-1], tokens[1:]
        out["kinds"][place], out["target_kinds"][place] = kinds[:-1], kinds[1:]
        out["loss_mask"][place], out["segments"][place] = loss[1:], segment
        start = place.stop
    return out


def stack(rows: Sequence[Batch]) -> Batch:
    """Rows as a batch."""
    return {name: np.stack([one[name] for one in rows]) for name in rows[0]}
