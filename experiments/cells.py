"""Tables of runs: cells by name, each with several seeds."""

import pathlib
from collections.abc import Collection, Iterator

from lapa_jax import errors


def runs(
    root: pathlib.Path, known: Collection[str], chosen: Collection[str], seeds: int
) -> Iterator[tuple[str, int, pathlib.Path]]:
    """(cell, seed, folder), seed by seed.

    Args:
        known: names of all cells.
        chosen: some of them, in their order; none: all.

    Raises:
        UserError: there is no such cell.
    """
    if unknown := sorted(set(chosen) - set(known)):
        raise errors.UserError(f"no cell {unknown[0]!r}; choose from: {'; '.join(known)}")
    for seed in range(seeds):
        for name in chosen or known:
            yield name, seed, root / f"{name.replace(' ', '-')}-{seed}"
