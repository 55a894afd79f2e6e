"""SentencePiece models of the BPE kind (LLaMA's `tokenizer.model`): a text as the ids that SentencePiece gives it.

The file is a protobuf: pieces {1: text, 2: score, 3: type} under 1, how it was trained under 2 and how text is
normalised under 3. Of the many things that such a model may ask for, those of LLaMA's are done here and all others
refused.
"""

import heapq
import os
import pathlib
import struct
from collections.abc import Iterator

from lapa_jax import errors
from lapa_jax.data.stored import example

SPACE = "\u2581"
"""How a space is written in pieces."""

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
_BPE = 2
_MODEL_TYPE, _SPACE_AS_SUFFIX = 3, 24  # of how it was trained
_RULES, _DUMMY_PREFIX, _TRIM, _ESCAPE = 2, 3, 4, 5  # of how text is normalised


class Pieces:
    """The vocabulary of a model and how texts fall apart into it.

    Args:
        data: what is in the file of the model.
        path: what errors call it.

    Raises:
        UserError: a model of another kind than LLaMA's, or none.
    """

    def __init__(self, data: bytes, path: str | os.PathLike = "tokenizer.model") -> None:
        try:
            model = _message(data, 0, len(data))
            self.texts, self._scores, self.types = zip(*(_piece(data, span) for span in model[1]), strict=True)
            trained, normal = (_message(data, *model.get(number, [(0, 0)])[-1]) for number in (2, 3))
            rules = any(stop > start for start, stop in normal.get(_RULES, []))
        except (example.Malformed, KeyError, TypeError, ValueError, struct.error) as error:
            raise errors.UserError(f"{path} is no SentencePiece model ({error!r}): copy it again") from None
        self.ids = {text: i for i, text in enumerate(self.texts)}
        self._merges = {
            text: score
            for text, score, kind in zip(self.texts, self._scores, self.types, strict=True) if kind == NORMAL
        }  # fmt: skip
        self._prefix, self._trim = _flag(normal, _DUMMY_PREFIX, 1), _flag(normal, _TRIM, 1)
        others = {
            "is not BPE": _flag(trained, _MODEL_TYPE, 1) != _BPE,
            "writes spaces after words": _flag(trained, _SPACE_AS_SUFFIX, 0) or not _flag(normal, _ESCAPE, 1),
            "normalises characters": rules,
            "has pieces of its user's": not set(self.types) <= {NORMAL, UNKNOWN, CONTROL, BYTE},
            "has no piece for some byte": any(_byte(value) not in self.ids for value in range(256)),
            "has a piece twice": len(self.ids) < len(self.texts),
        }
        for what, found in others.items():
            if found:
                raise errors.UserError(f"{path} {what}; give a tokenizer.model as LLaMA's is")

    def __len__(self) -> int:
        return len(self.texts)

    def encode(self, text: str) -> list[int]:
        """The ids of a text; names of special pieces in it are text.

        Raises:
            UserError: the text has characters that UTF-8 has not.
        """
        try:
            return [i for piece in self._split(self._normalised(text)) for i in self._ids(piece)]
        except UnicodeEncodeError:
            raise errors.UserError(f"{text!r} has half a character in it, which has no tokens") from None

    def _normalised(self, text: str) -> str:
        if self._trim:
            text = " ".join(word for word in text.split(" ") if word)
        text = (SPACE if self._prefix and text else "") + text.replace(" ", SPACE)
        return text.rstrip(SPACE) if self._trim else text

    def _split(self, text: str) -> Iterator[str]:
        """Characters, neighbours joined as long as that makes a piece: best score first, then leftmost."""
        parts = list(text)
        before, after = list(range(-1, len(parts) - 1)), list(range(1, len(parts) + 1))
        queue: list[tuple[float, int, int, int]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < len(parts):
                joined = parts[left] + parts[right]
                if joined in self._merges:
                    heapq.heappush(queue, (-self._merges[joined], left, right, len(joined)))

        for i in range(len(parts) - 1):
            offer(i, i + 1)
        while queue:
            _, left, right, length = heapq.heappop(queue)
            if not parts[left] or not parts[right] or len(parts[left]) + len(parts[right]) != length:
                continue  # one of them has grown or gone since
            parts[left], parts[right] = parts[left] + parts[right], ""
            after[left] = after[right]
            if after[left] < len(parts):
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return filter(None, parts)

    def _ids(self, piece: str) -> list[int]:
        if piece in self._merges:
            return [self.ids[piece]]
        return [self.ids[_byte(value)] for value in piece.encode()]


def read(path: str | os.PathLike) -> bytes:
    """What is in a file; raises UserError when it cannot be read."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise errors.UserError(f"cannot read {path}: {error.strerror or error}") from error


def _byte(value: int) -> str:
    return f"<0x{value:02X}>"


def _message(data: bytes, start: int, stop: int) -> dict[int, list]:
    """number -> values of its fields: numbers, or where in the data they are."""
    found: dict[int, list] = {}
    for number, wire, begin, end in example.fields(data, start, stop):
        value = example.varint(data, begin, end)[0] if wire == 0 else (begin, end)
        found.setdefault(number, []).append(value)
    return found


def _piece(data: bytes, span: tuple[int, int]) -> tuple[str, float, int]:
    fields = _message(data, *span)
    start, stop = fields[1][-1]
    (score,) = struct.unpack("<f", data[slice(*fields[2][-1])]) if 2 in fields else (0.0,)
    return data[start:stop].decode(), score, _flag(fields, 3, NORMAL)


def _flag(fields: dict[int, list], number: int, default: int) -> int:
    return fields.get(number, [default])[-1]
