"""Prints the card of a dataset; a page with frames and histograms as well.

    python -m lapa_jax.data.inspect DIR [--split train] [--html card.html] [--json card.json]

DIR is what `config.data.directory` may be: RLDS, LeRobot, Something-Something V2, videos or folders of
frames. What is no RLDS is decoded below the cache first, as for training.
"""

import argparse
import json
import math
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from lapa_jax import errors
from lapa_jax.data import sources
from lapa_jax.data.card import contents as card_lib
from lapa_jax.data.card import page as card_page
from lapa_jax.data.card import text as card_text
from lapa_jax.data.stored import storage

# As in experiments/configs/common.py, so that training finds what was decoded.
_CLIPS = {"rate": 10.0, "size": 256, "quality": 95}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 2 after a mistake of the user's that is told in one line."""
    try:
        options = _parser().parse_args(arguments)
        if options.rate is not None and not (math.isfinite(options.rate) and options.rate > 0):
            raise errors.UserError(f"--rate {options.rate} is no number of steps a second; use more than 0")
        folder, made_from = find(options.directory, options.split, options.rate, options.cache)
        card = card_lib.make(
            folder,
            options.split,
            made_from=made_from,
            name=options.name,
            rate=options.rate,
            cache=options.cache,
            gap=options.gap,
        )
        if options.json:
            _write(options.json, json.dumps(card.to_json(), indent=1) + "\n")
        if options.html:
            _write(options.html, card_page.render(card))
    except errors.UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    _tell(card_text.render(card))
    return 0


def find(directory: str, split: str, rate: float | None, cache: str | None) -> tuple[str, str]:
    """(RLDS folder, what it was made from), decoded first where it is something else.

    Raises:
        UserError: nothing there that can be read.
    """
    if storage.is_url(directory) or sources.rlds_below(directory):
        return directory, ""
    data = {"rate": rate, "cache": cache, "clips": _CLIPS}
    try:  # first as training does, which then finds the files there
        folder = str(sources.decode(directory, split, {**data, "on_damage": "fail"}))
    except errors.UserError:
        folder = str(sources.decode(directory, split, {**data, "on_damage": "skip"}))
    about = pathlib.Path(directory) / "meta" / "info.json"
    version = json.loads(about.read_text()).get("codebase_version", "") if about.exists() else ""
    return folder, f"LeRobot {version} at {directory}" if version else f"videos at {directory}"


def _write(path: str, text: str) -> None:
    try:
        pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
        pathlib.Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.UserError(f"cannot write {path}: {error.strerror or error}") from error


def _tell(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # a reader that has seen enough, as head; nor shall Python flush at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Parser(argparse.ArgumentParser):
    """Tells of mistakes in one line, as the rest of the program."""

    def error(self, message: str) -> NoReturn:
        raise errors.UserError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m lapa_jax.data.inspect", description="The card of a dataset.")
    parser.add_argument("directory", metavar="DIR", help="RLDS, LeRobot, videos or folders of frames")
    parser.add_argument("--split", default="train", help="(default: %(default)s)")
    parser.add_argument("--name", metavar="ENTRY", help="entry of the table; default: the dataset's own name")
    parser.add_argument("--rate", metavar="HZ", type=float, help="steps a second, where the dataset does not say")
    parser.add_argument("--gap", metavar="SECONDS", type=float, default=0.6, help="of pairs (default: %(default)s)")
    parser.add_argument("--cache", metavar="DIR", help="of indices and decoded videos; default: ~/.cache/lapa_jax")
    parser.add_argument("--html", metavar="FILE", help="writes one page with frames, pairs and histograms")
    parser.add_argument("--json", metavar="FILE", help="writes the numbers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
