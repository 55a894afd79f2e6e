"""Instructions as ids: words counted from the instructions at hand, or a pretrained tokenizer from its folder."""

import json
import os
import pathlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from tokenizers import Tokenizer as _Tokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from lapa_jax import errors

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
_SPECIALS = (PAD, BOS, UNK)


class Text(Protocol):
    """What a layout needs of a tokenizer.

    Attributes:
        length: most ids that an instruction may have.
        vocab_size: ids are below it.
        start_id: stands where the image ends and latents begin.
    """

    length: int
    start_id: int

    @property
    def vocab_size(self) -> int: ...
    def ids(self, instruction: str) -> list[int]: ...
    def to_json(self) -> str: ...


class Tokenizer:
    """Instruction -> ids, by anything that the `tokenizers` library holds.

    Args:
        tokenizer: adds its own special tokens in front, where it has any.
        length: most ids that an instruction may have.
        start_id: see `Text`.
    """

    def __init__(self, tokenizer: _Tokenizer, length: int, start_id: int):
        self._tokenizer, self.length, self.start_id = tokenizer, length, start_id

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def pad_id(self) -> int:
        """Fills `encode`'s rows; tokenizers without padding have their start there, which is no word either."""
        found = self._tokenizer.token_to_id(PAD)
        return self.start_id if found is None else found

    def ids(self, instruction: str) -> list[int]:
        """The ids of an instruction; words that are not known become the unknown one.

        Raises:
            UserError: it has more than `length`.
        """
        found = self._tokenizer.encode(instruction).ids
        check_length(instruction, len(found), self.length)
        return found

    def encode(self, instruction: str) -> np.ndarray:
        """Returns int32[length]: the ids, then padding. Raises UserError as `ids`."""
        ids = self.ids(instruction)
        tokens = np.full(self.length, self.pad_id, np.int32)
        tokens[: len(ids)] = ids
        return tokens

    def encode_blank(self) -> np.ndarray:
        """Returns int32[length] of the empty instruction."""
        return self.encode("")

    def to_json(self) -> str:
        tokenizer = json.loads(self._tokenizer.to_str())
        return json.dumps({"length": self.length, "start_id": self.start_id, "tokenizer": tokenizer})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        try:
            saved = json.loads(text)
            tokenizer = _Tokenizer.from_str(json.dumps(saved["tokenizer"]))
            return cls(tokenizer, int(saved["length"]), int(saved["start_id"]))
        except Exception as error:  # tokenizers raises nothing more specific
            raise errors.UserError(
                f"not a saved tokenizer ({error}); give the text that Tokenizer.to_json wrote"
            ) from error


def check_length(instruction: str, size: int, length: int) -> None:
    """Raises UserError when an instruction of `size` ids is longer than `length`: nothing is cut silently."""
    if size > length:
        raise errors.UserError(
            f"instruction {instruction!r} needs {size} tokens and the text length is {length}; "
            "shorten the instruction, or train with a larger data.text_length"
        )


def read_folder(folder: str | os.PathLike, length: int) -> Tokenizer:
    """A pretrained tokenizer, as transformers reads it from a folder; nothing is downloaded.

    Raises:
        UserError: no tokenizer is there, or one that transformers cannot run without Python code.
    """
    files = {path.name for path in pathlib.Path(folder).glob("*")}
    if not files:
        raise errors.UserError(f"no files in {folder}: tokenizers are read from disk; get one with `hf download`")
    if "tokenizer.model" in files and "tokenizer.json" not in files:
        raise errors.UserError(f"{folder} holds a SentencePiece model only: give {folder}/tokenizer.model")
    from transformers import AutoTokenizer  # seconds to import, and worker processes do without it

    try:
        found = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # of many kinds
        reason = " ".join(str(error).split())[:160]
        raise errors.UserError(f"{folder} holds no tokenizer that transformers can read: {reason}") from error
    backend = getattr(found, "backend_tokenizer", None)
    starts = [i for i in (found.bos_token_id, found.eos_token_id) if i is not None]
    if backend is None or not starts:
        lacks = "no tokenizer.json" if backend is None else "neither a begin nor an end token"
        raise errors.UserError(f"the tokenizer in {folder} has {lacks}; give another")
    backend.no_padding()
    backend.no_truncation()
    return Tokenizer(backend, length, starts[0])


def train_tokenizer(instructions: Iterable[str], length: int) -> Tokenizer:
    """Builds the vocabulary from every word of `instructions`, sorted, so order does not matter.

    Raises:
        UserError: no instruction has a word, or one is longer than `length` - 1 words.
    """
    instructions = sorted(set(instructions))
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    pre_tokenizer = pre_tokenizers.Whitespace()
    words = {
        word
        for instruction in instructions
        for word, _ in pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(instruction))
    }
    if not words:
        raise errors.UserError(
            "no words to make a tokenizer from: every language_instruction is empty"
        )
    vocab = {word: i for i, word in enumerate((*_SPECIALS, *sorted(words)))}
    tokenizer = _Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])]
    )
    trained = Tokenizer(tokenizer, length, vocab[BOS])
    for instruction in instructions:
        trained.ids(instruction)
    return trained
