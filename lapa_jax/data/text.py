"""Any tokenizer by its path, and again from what a checkpoint has kept of it."""

import json
import os
import pathlib
from collections.abc import Iterable

from lapa_jax import errors
from lapa_jax.data import official_prompts, prompts


def open_text(path: str | os.PathLike | None, instructions: Iterable[str], length: int) -> prompts.Text:
    """The tokenizer at `path`; without one, the words of the instructions.

    Args:
        path: a SentencePiece model as LLaMA's (`tokenizer.model`), or a folder that transformers reads.
        length: most ids that an instruction may have.

    Raises:
        UserError: it cannot be read, or one of the instructions is longer.
    """
    if path is None:
        return prompts.train_tokenizer(instructions, length)
    path = pathlib.Path(path).expanduser()
    found = prompts.read_folder(path, length) if path.is_dir() else official_prompts.Tokenizer.read(path, length)
    for instruction in set(instructions):
        found.ids(instruction)
    return found


def from_json(text: str) -> prompts.Text:
    """What `to_json` of any tokenizer wrote.

    Raises:
        UserError: something else.
    """
    try:
        kinds = json.loads(text).keys() & {"pieces", "tokenizer"}
    except (ValueError, AttributeError, TypeError):
        kinds = set()
    if not kinds:
        raise errors.UserError(f"{str(text)[:40]!r} is no saved tokenizer: the checkpoint is damaged, or of no VLM")
    return (official_prompts.Tokenizer if "pieces" in kinds else prompts.Tokenizer).from_json(text)
