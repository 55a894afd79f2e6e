"""A word-level tokenizer made from the instructions at hand."""

import json
from collections.abc import Iterable

import numpy as np
from tokenizers import Tokenizer as _Tokenizer
from tokenizers import models, normalizers, pre_tokenizers, processors

from lapa_jax import errors

PAD, BOS, UNK = "<pad>", "<bos>", "<unk>"
_SPECIALS = (PAD, BOS, UNK)


class Tokenizer:
    """Instruction -> int32[length]: <bos>, one token a word, <pad> to the end."""

    def __init__(self, tokenizer: _Tokenizer, length: int):
        self._tokenizer = tokenizer
        self.length = length

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size()

    @property
    def pad_id(self) -> int:
        return self._tokenizer.token_to_id(PAD)

    def encode(self, instruction: str) -> np.ndarray:
        """Returns int32[length]; unknown words become <unk>.

        Raises:
            UserError: the instruction has more words than `length` - 1.
        """
        ids = self._tokenizer.encode(instruction).ids
        if len(ids) > self.length:
            raise errors.UserError(
                f"instruction {instruction!r} needs {len(ids)} tokens and the text length is "
                f"{self.length}; raise the length or shorten the instruction"
            )
        tokens = np.full(self.length, self.pad_id, np.int32)
        tokens[: len(ids)] = ids
        return tokens

    def encode_blank(self) -> np.ndarray:
        """Returns int32[length] of the empty instruction: <bos>, then <pad>."""
        return self.encode("")

    def to_json(self) -> str:
        tokenizer = json.loads(self._tokenizer.to_str())
        return json.dumps({"length": self.length, "tokenizer": tokenizer})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        try:
            saved = json.loads(text)
            tokenizer = _Tokenizer.from_str(json.dumps(saved["tokenizer"]))
            return cls(tokenizer, int(saved["length"]))
        except Exception as error:  # tokenizers raises nothing more specific
            raise errors.UserError(
                f"not a saved tokenizer ({error}); give the text that Tokenizer.to_json wrote"
            ) from error


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
    trained = Tokenizer(tokenizer, length)
    for instruction in instructions:
        trained.encode(instruction)
    return trained
