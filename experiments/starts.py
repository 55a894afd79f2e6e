"""Where the parameters of stage 2 may begin: an official file, a folder of Hugging Face, an earlier run of ours."""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
from ml_collections import ConfigDict

from lapa_jax import checkpoints, errors, trained, vocab
from lapa_jax.convert import hugging_face_text, lapa_model, official_lapa
from lapa_jax.data import prompts, text
from lapa_jax.models import llama

POSITIONS = ("theta", "rope", "rope_length")
"""Keys of a config's `model` that say what positions a trunk was trained with."""

TEXT_TABLE = "embed_text/embedding"

NOTHING = "$^"
"""A regular expression that is found nowhere."""


@dataclasses.dataclass(frozen=True)
class Start:
    """Parameters on disk, and the model that they are of.

    Attributes:
        path: what errors call it.
        names: '/'-joined paths of its parameters.
        trunk: keyword arguments of the trunk.
        vocabs: rows of its tables.
        read: nested dict of some of its parameters as ShapeDtypeStructs, and a regular expression of the paths of
            all others -> those parameters, in their places.
        tokenizer: (instructions, length) -> the one it was trained with; None where it is not known.
        exact: its text table has a row for each id of its tokenizer and none to spare.
    """

    path: str
    names: frozenset[str]
    trunk: Mapping[str, Any]
    vocabs: Mapping[str, int]
    read: Callable[[Any, str], Any]
    tokenizer: Callable[[Any, int], prompts.Text] | None
    exact: bool = False

    def complete(self, model: ConfigDict, ignore: str) -> None:
        """Make a config's `model` that of these parameters; tables that are ignored keep their sizes."""
        model.size = None
        model.trunk = ConfigDict(dict(self.trunk))
        for name, rows in self.vocabs.items():
            if not left_alone(ignore, f"embed_{name}/embedding"):
                model.vocabs[name] = rows

    def own_text(self, instructions: tuple[str, ...], length: int, ignore: str) -> prompts.Text:
        """The tokenizer that the parameters came with; words of the instructions if their text table is ignored.

        Raises:
            UserError: it is not there.
        """
        if self.tokenizer is not None:
            return self.tokenizer(instructions, length)
        if left_alone(ignore, TEXT_TABLE):
            return text.open_text(None, instructions, length)
        raise errors.UserError(
            f"{self.path} comes without the tokenizer that its text table was trained with: give it with "
            "--config.text.path, or let the table begin anew, of the words of the dataset, with "
            "--config.init.ignore='(embed|head)_text' --config.init.new='lora_|(embed|head)_|project/|stem/'"
        )

    def parameters(self, abstract: Any, new: str, ignore: str) -> dict[str, jax.Array]:
        """Path -> parameter, of all that do not begin anew.

        Args:
            abstract: parameters of the model, as ShapeDtypeStructs with their shardings.
            new: regular expression of paths that may be missing here.
            ignore: regular expression of paths here that are left alone.

        Raises:
            UserError: some are missing or have no place.
        """
        wanted = flax.traverse_util.flatten_dict(abstract, sep="/")
        there = {name for name in self.names if not left_alone(ignore, name)}
        if missing := sorted(name for name in wanted if name not in there and not re.search(new or NOTHING, name)):
            raise errors.UserError(
                f"{self.path} has no {', '.join(missing[:3])}: say with --config.init.new if they are to begin anew"
            )
        if extra := sorted(there - wanted.keys()):
            raise errors.UserError(
                f"{self.path} has {', '.join(extra[:3])}, for which the model has no place: leave them out with "
                "--config.init.ignore, or give model.heads and model.vocabs that have them"
            )
        kept = {name: leaf for name, leaf in wanted.items() if name in there}
        found = self.read(flax.traverse_util.unflatten_dict(kept, sep="/"), ignore or NOTHING)
        return flax.traverse_util.flatten_dict(found, sep="/")


def open_start(path: str | None, num_heads: int | None = None) -> Start | None:
    """What is at `path`; nothing is loaded. None for no path.

    Args:
        num_heads: of an official file, where its sizes are not LLaMA's.

    Raises:
        UserError: nothing there that stage 2 can begin with.
    """
    if path is None:
        return None
    place = pathlib.Path(path.partition("::")[2] or path).expanduser()
    if place.is_file():
        return _official(path, num_heads)
    if (place / "config.json").exists() and not (place / "checkpoints").exists():
        return _hugging_face(place)
    if not place.exists():
        raise errors.UserError(f"init.path: nothing at {path}")
    return _run(place)


def _official(path: str, num_heads: int | None) -> Start:
    names = frozenset(official_lapa.open_params(path))
    model = lapa_model.model_of(path, num_heads)

    def read(abstract: Any, ignore: str) -> Any:
        return official_lapa.read(path, abstract, ignore=ignore)

    return Start(path, names, model.trunk, model.vocabs, read, None, exact=True)


def _hugging_face(folder: pathlib.Path) -> Start:
    found = hugging_face_text.text_model(folder)
    names = hugging_face_text.names(folder, found)
    has_tokenizer = (folder / "tokenizer.json").exists()

    def read(abstract: Any, ignore: str) -> Any:
        return hugging_face_text.read(folder, found, abstract, ignore=ignore)

    own = functools.partial(text.open_text, folder) if has_tokenizer else None
    return Start(str(folder), names, found.trunk, {"text": found.vocab_size}, read, own)


def _run(folder: pathlib.Path) -> Start:
    planner = trained.describe_planner(folder)
    model, own = planner.config, planner.layout.tokenizer
    spec = dict(llama.SIZES.get(model["size"], {})) | {key: model[key] for key in POSITIONS if key in model}
    spec |= model.get("trunk") or {}

    def tokenizer(instructions: Any, length: int) -> prompts.Text:
        for instruction in set(instructions):
            own.ids(instruction)
        return own

    def read(abstract: Any, ignore: str) -> Any:
        del ignore  # only what is asked for is read
        return checkpoints.load_params(folder, abstract)

    names = frozenset(checkpoints.stored_params(folder))
    return Start(str(folder), names, spec, planner.model.vocabs, read, tokenizer)


def left_alone(ignore: str | None, name: str) -> bool:
    """Does `init.ignore` leave this parameter on disk?"""
    return re.search(ignore or NOTHING, name) is not None


def check_text(start: Start, words: prompts.Text, ignore: str | None) -> None:
    """Raises UserError when a tokenizer is not the one that a table of text was made for, and the table is used."""
    rows = None if left_alone(ignore, TEXT_TABLE) else start.vocabs.get(vocab.NAMES[vocab.TEXT])
    if start.exact and rows is not None and words.vocab_size != rows:
        raise errors.UserError(
            f"the tokenizer has {words.vocab_size} ids and {start.path} a table of {rows}: "
            "give the one that belongs to it, with --config.text.path"
        )
