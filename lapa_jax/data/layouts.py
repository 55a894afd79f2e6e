"""How an instruction, an image and a latent action stand in one sequence.

Images are places: tokens of the kind IMAGE whose ids are rows of what an image encoder gives. The model puts vision
tokens or features there, so that a sequence is made without looking at a pixel.
"""

import abc
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from lapa_jax import errors, vocab
from lapa_jax.data import official_prompts, prompts, sequences
from lapa_jax.data.sequences import Tokens

PAD_ID = official_prompts.PROMPT_PAD_ID


@dataclasses.dataclass(frozen=True)
class Layout(abc.ABC):
    """Sequences of one form.

    Attributes:
        tokenizer: of the instructions.
        num_image_tokens: places of an image.
        code_length: latents a transition.
        by_word: the image has a place for each id of the instruction, and the last of its places, instead of all
            (`image_stem.ImageStem`).
    """

    tokenizer: prompts.Text
    num_image_tokens: int
    code_length: int
    by_word: bool = False

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError when the fields do not fit this layout."""
        if self.num_image_tokens < 1 or self.code_length < 1:
            numbers = f"{self.num_image_tokens} image tokens and {self.code_length} latents"
            raise errors.UserError(f"a layout with {numbers}: each must be 1 or more")

    @abc.abstractmethod
    def template(self, instruction: str) -> Tokens:
        """The training sequence of a step whose latents are all 0.

        Raises:
            UserError: the instruction is too long.
        """

    @property
    @abc.abstractmethod
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""

    @functools.cached_property
    def targets(self) -> dict[int, int]:
        """Kind -> how many tokens of it are to be predicted, in each sequence."""
        _, kinds, loss = self.template("")
        return {int(kind): int(np.sum(kinds[loss] == kind)) for kind in np.unique(kinds[loss])}

    def prompt(self, instruction: str) -> dict[str, np.ndarray]:
        """What comes before the first latent, padded on the left: tokens, kinds, segments int32[prompt_length], and
        what `text` gives.

        Raises:
            UserError: the instruction is too long.
        """
        tokens, kinds, _ = self.template(instruction)
        size = int(np.argmax(kinds == vocab.LATENT))
        padding = (self.prompt_length - size, 0)
        return {
            "tokens": np.pad(tokens[:size], padding, constant_values=PAD_ID),
            "kinds": np.pad(kinds[:size], padding, constant_values=vocab.TEXT).astype(np.int32),
            "segments": np.pad(np.ones(size, np.int32), padding),
            **self.text(instruction),
        }

    def text(self, instruction: str) -> dict[str, np.ndarray]:
        """`text` int32[L], padded: what an image encoder `by_word` reads beside the image; else nothing."""
        if not self.by_word:
            return {}
        ids = self.tokenizer.ids(instruction)
        return {"text": np.pad(np.array(ids, np.int32), (0, self.tokenizer.length - len(ids)))}

    def to_json(self) -> dict[str, Any]:
        """All but the tokenizer; `make` takes it back."""
        name = next(name for name, kind in LAYOUTS.items() if isinstance(self, kind))
        numbers = {key: getattr(self, key) for key in ("num_image_tokens", "code_length", "by_word")}
        return {"name": name, **numbers}


class Clean(Layout):
    """Instruction, image, a start token, latents; only latents are targets."""

    def template(self, instruction: str) -> Tokens:
        words = self.tokenizer.ids(instruction)
        return sequences.join(
            (words, vocab.TEXT, False),
            (self._places(len(words)), vocab.IMAGE, False),
            ([self.tokenizer.start_id], vocab.TEXT, False),
            ([0] * self.code_length, vocab.LATENT, True),
        )

    def _places(self, num_words: int) -> list[int]:
        last = self.num_image_tokens - 1
        return [*range(num_words), last] if self.by_word else list(range(self.num_image_tokens))

    @property
    def prompt_length(self) -> int:
        return self.tokenizer.length + self.num_image_tokens + 1


class Official(Layout):
    """As the published models were trained (`official_prompts`); markers and the end are targets, too."""

    def check(self) -> None:
        super().check()
        if not isinstance(self.tokenizer, official_prompts.Tokenizer):
            raise errors.UserError("layout=official needs LLaMA's text: give --config.text.path=tokenizer.model")
        if self.by_word:
            raise errors.UserError("layout=official has no stem: set --config.model.image=tokens, or features")

    def template(self, instruction: str) -> Tokens:
        whole = official_prompts.INSTRUCTION.format(instruction)
        places = np.arange(self.num_image_tokens)
        found = official_prompts.example(self.tokenizer, whole, places, [0] * self.code_length, vocab.LATENT)
        of_image = (found.kinds == vocab.VISION) & (found.tokens < self.num_image_tokens)
        prompts.check_length(instruction, int(np.argmax(of_image)), self.tokenizer.length)
        return found._replace(kinds=np.where(of_image, vocab.IMAGE, found.kinds).astype(np.int8))

    @property
    def prompt_length(self) -> int:
        _, kinds, _ = self.template("")
        after = int(np.argmax(kinds == vocab.LATENT) - np.argmax(kinds == vocab.IMAGE))
        return self.tokenizer.length + after


LAYOUTS: Mapping[str, type[Layout]] = {"clean": Clean, "official": Official}


def with_latents(template: Tokens, latents: np.ndarray) -> Tokens:
    """A sequence with int[N] in the places of its latents."""
    tokens = template.tokens.copy()
    tokens[template.kinds == vocab.LATENT] = latents
    return template._replace(tokens=tokens)


def make(name: str, tokenizer: prompts.Text, **numbers: Any) -> Layout:
    """A layout by its name, with the other fields of `Layout`.

    Raises:
        UserError: no such layout, or a tokenizer that it cannot use.
    """
    if name not in LAYOUTS:
        raise errors.UserError(f"no layout {name!r}: choose one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name](tokenizer, **numbers)
