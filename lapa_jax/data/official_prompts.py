"""Token sequences of the official language model (LAPA, LWM): text, image codes, latent or action ids, batches.

    <s> <s> INSTRUCTION <vision> CODES 8193 </vision> <delta> IDS </delta> </s>

Markers such as `<vision>` are ordinary text of several pieces; the two `<s>` are the one that every sequence begins
with and the one that instructions have in front. Loss is on all that follows `</vision>`.
"""

import base64
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors, vocab
from lapa_jax.data import pieces, prompts
from lapa_jax.data.sequences import Tokens, join

INSTRUCTION = "<s> You are a helpful assistant. USER: What action should the robot take to `{}` ASSISTANT:"
"""The instruction of a task, as in all published data."""

SPECIALS = {"<unk>": vocab.LLAMA_UNK_ID, "<s>": vocab.LLAMA_BOS_ID, "</s>": vocab.LLAMA_EOS_ID}
MARKERS = {vocab.VISION: "vision", vocab.LATENT: "delta", vocab.ACTION: "action"}
"""Kind -> the official name of what is marked; also the key of its ids in the official JSONL files."""

PROMPT_PAD_ID = vocab.LLAMA_UNK_ID
"""Padding on the left of a prompt, where it is masked."""

PROMPT_LENGTH = 128
"""Tokens of the text up to the image."""


class Tokenizer:
    """LLaMA's text tokens by the rules of the official code.

    Text is cut at `<unk>`, `<s>` and `</s>`, which become their ids; white space beside them is dropped, and the
    stretches between are encoded each by itself. `encode` puts no `<s>` in front; `ids` does.

    Args:
        data: what is in the `tokenizer.model`.
        length: most ids that an instruction may have.
        path: what errors call the file.

    Raises:
        UserError: it is of another kind, or has the special pieces elsewhere.
    """

    start_id = vocab.LLAMA_BOS_ID

    def __init__(
        self, data: bytes, length: int = PROMPT_LENGTH, path: str | os.PathLike = "tokenizer.model"
    ) -> None:
        self._data, self.length = data, length
        self._pieces = pieces.Pieces(data, path)
        if any(self._pieces.ids.get(name) != i for name, i in SPECIALS.items()):
            raise errors.UserError(f"{path} begins otherwise than <unk>, <s>, </s>; give one as LLaMA's")

    @classmethod
    def read(cls, path: str | os.PathLike, length: int = PROMPT_LENGTH) -> "Tokenizer":
        """Raises UserError when there is no such file, or as the constructor."""
        return cls(pieces.read(path), length, path)

    @property
    def vocab_size(self) -> int:
        return len(self._pieces)

    def encode(self, text: str) -> list[int]:
        """The ids of a text.

        Raises:
            UserError: the text has characters that UTF-8 has not.
        """
        parts = re.split("(<unk>|<s>|</s>)", text)
        if len(parts) > 1:
            first, *between, last = parts
            parts = [first.rstrip(), *(part.strip() for part in between), last.lstrip()]
        return [i for part in parts for i in ([SPECIALS[part]] if part in SPECIALS else self._pieces.encode(part))]

    def ids(self, instruction: str) -> list[int]:
        """<s> and the ids of an instruction, at most `length`.

        Raises:
            UserError: it has more.
        """
        found = [self.start_id, *self.encode(instruction)]
        prompts.check_length(instruction, len(found), self.length)
        return found

    def to_json(self) -> str:
        return json.dumps({"length": self.length, "pieces": base64.b64encode(self._data).decode()})

    @classmethod
    def from_json(cls, text: str) -> "Tokenizer":
        saved = json.loads(text)
        return cls(base64.b64decode(saved["pieces"]), saved["length"])


def example(tokenizer: Tokenizer, instruction: str, image_codes: Any, ids: Any, kind: int) -> Tokens:
    """The training sequence of one step.

    Args:
        instruction: as `INSTRUCTION` makes it.
        image_codes: int[P] of one frame, or int[F, P].
        ids: int[N] of the latent action (kind LATENT), or the bins of the action (kind ACTION).

    Raises:
        UserError: codes that are no numbers, or that the vocabulary does not have.
    """
    name, text = MARKERS[kind], vocab.TEXT
    return join(
        ([vocab.LLAMA_BOS_ID, *tokenizer.encode(instruction)], text, False),
        (tokenizer.encode("<vision>"), text, False),
        (_frames(image_codes), vocab.VISION, False),
        (tokenizer.encode("</vision>"), text, False),
        (tokenizer.encode(f"<{name}>"), text, True),
        (_numbers(ids, name), kind, True),
        (tokenizer.encode(f"</{name}>") + [vocab.LLAMA_EOS_ID], text, True),
    )


def from_record(tokenizer: Tokenizer, record: Mapping[str, Any]) -> Tokens:
    """The sequence of a line of the official JSONL files; ids in them may be numbers or texts.

    Raises:
        UserError: a key is missing, or `fields` is neither that of latent pretraining nor that of finetuning.
    """
    kinds = {f"[instruction],[vision],{MARKERS[kind]}": kind for kind in (vocab.LATENT, vocab.ACTION)}
    kind = kinds.get(record.get("fields"))
    if kind is None:
        raise errors.UserError(f"a record has fields={record.get('fields')!r}: give one of {', '.join(kinds)}")
    missing = [key for key in ("instruction", "vision", MARKERS[kind]) if key not in record]
    if missing:
        raise errors.UserError(f"a record has no {missing[0]}: it has {', '.join(sorted(record))}")
    return example(tokenizer, record["instruction"], record["vision"], record[MARKERS[kind]], kind)


def prompt_batch(
    tokenizer: Tokenizer,
    instructions: Sequence[str],
    image_codes: Any,
    kind: int,
    length: int = PROMPT_LENGTH,
    legacy: bool = False,
) -> dict[str, np.ndarray]:
    """What comes before the ids of a latent action or an action, as `example` has it, padded on the left.

    Args:
        image_codes: int[B, P], or int[B, F, P].
        length: of the text up to and with `<vision>`.
        legacy: a text that is longer loses its beginning, as in the official code.

    Returns:
        tokens int32[B, T], kinds int8[B, T], mask bool[B, T] (False: padding).

    Raises:
        UserError: a text is longer than `length`, and not `legacy`.
    """
    end = tokenizer.encode(f"</vision> <{MARKERS[kind]}>")
    rows, masks = [], []
    for instruction, codes in zip(instructions, image_codes, strict=True):
        text = [vocab.LLAMA_BOS_ID, *tokenizer.encode(f"{instruction} <vision>")]
        if len(text) > length and not legacy:
            raise errors.UserError(f"{instruction!r} has {len(text)} tokens and prompts take {length}: shorten it")
        text = text[-length:]
        padding = [PROMPT_PAD_ID] * (length - len(text))
        parts = [(padding + text, vocab.TEXT), (_frames(codes), vocab.VISION), (end, vocab.TEXT)]
        rows.append(join(*((ids, kind, False) for ids, kind in parts)))
        masks.append(np.arange(len(rows[-1].tokens)) >= len(padding))
    tokens, kinds, _ = (np.stack(values) for values in zip(*rows, strict=True))
    return dict(tokens=tokens, kinds=kinds, mask=np.stack(masks))


def _frames(image_codes: Any) -> np.ndarray:
    """int32: the codes of all frames, each closed by an id that says whether another comes."""
    codes = np.atleast_2d(_numbers(image_codes, "vision"))
    if codes.ndim != 2 or (codes >= vocab.NUM_IMAGE_CODES).any():
        raise errors.UserError(
            f"image codes {codes.shape} up to {codes.max(initial=0)}: they are [P] or [frames, P] below "
            f"{vocab.NUM_IMAGE_CODES}"
        )
    ends = np.full((len(codes), 1), vocab.END_OF_FRAME_ID, np.int32)
    ends[-1] = vocab.END_OF_VISION_ID
    return np.concatenate([codes, ends], axis=1).reshape(-1)


def _numbers(ids: Any, name: str) -> np.ndarray:
    """int32, also of numbers that are written as texts."""
    try:
        numbers = np.asarray(ids)
        numbers = numbers.astype(np.int64) if numbers.dtype.kind in "iuU" else np.array(-1)
    except (ValueError, OverflowError):
        numbers = np.array(-1)
    if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= 1 << 31:
        raise errors.UserError(f"{name} has {str(ids)[:60]}, which are no ids of tokens")
    return numbers.astype(np.int32)
