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
        images: how many, one after the other: cameras of a robot.
        answer: what follows, "latent" or "action".
        answer_length: tokens of it; None: `code_length`.
    """

    tokenizer: prompts.Text
    num_image_tokens: int
    code_length: int
    by_word: bool = False
    images: int = 1
    answer: str = "latent"
    answer_length: int | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Raises UserError when the fields do not fit this layout."""
        if min(self.num_image_tokens, self.code_length, self.images) < 1:
            numbers = f"{self.images} images of {self.num_image_tokens} tokens and {self.code_length} latents"
            raise errors.UserError(f"a layout with {numbers}: each must be 1 or more")
        if self.answer not in ("latent", "action"):
            raise errors.UserError(f"a layout with answer={self.answer!r}: it is latent, or action")

    @abc.abstractmethod
    def template(self, instruction: str) -> Tokens:
        """The training sequence of a step whose latents (or ids of an action) are all 0.

        Raises:
            UserError: the instruction is too long.
        """

    @property
    @abc.abstractmethod
    def prompt_length(self) -> int:
        """Tokens of the longest prompt."""

    @property
    def kind(self) -> int:
        """Of what follows (`vocab`)."""
        return vocab.NAMES.index(self.answer)

    @property
    def _answers(self) -> list[int]:
        return [0] * (self.answer_length or self.code_length)

    @functools.cached_property
    def targets(self) -> dict[int, int]:
        """Kind -> how many tokens of it are to be predicted, in each sequence."""
        _, kinds, loss = self.template("")
        return {int(kind): int(np.sum(kinds[loss] == kind)) for kind in np.unique(kinds[loss])}

    def prompt(self, instruction: str) -> dict[str, np.ndarray]:
        """What comes before the answer, padded on the left: tokens, kinds, segments int32[prompt_length], and
        what `text` gives.

        Raises:
            UserError: the instruction is too long.
        """
        tokens, kinds, _ = self.template(instruction)
        size = int(np.argmax(kinds == self.kind))
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
        fields = [field.name for field in dataclasses.fields(self) if field.name != "tokenizer"]
        return {"name": name, **{field: getattr(self, field) for field in fields}}


class Clean(Layout):
    """Instruction, image, a start token, latents; only latents are targets."""

    def check(self) -> None:
        super().check()
        if self.by_word and self.num_image_tokens <= self.tokenizer.length:
            raise errors.UserError(
                f"an image by word of {self.num_image_tokens} tokens, for instructions of {self.tokenizer.length}: it "
                "has a place for each of their tokens and one more"
            )

    def template(self, instruction: str) -> Tokens:
        words = self.tokenizer.ids(instruction)
        return sequences.join(
            (words, vocab.TEXT, False),
            (self._places(len(words)), vocab.IMAGE, False),
            ([self.tokenizer.start_id], vocab.TEXT, False),
            (self._answers, self.kind, True),
        )

    def _places(self, num_words: int) -> list[int]:
        last = self.num_image_tokens - 1
        one = [*range(num_words), last] if self.by_word else list(range(self.num_image_tokens))
        return [nth * self.num_image_tokens + place for nth in range(self.images) for place in one]

    @property
    def prompt_length(self) -> int:
        return self.tokenizer.length + self.images * self.num_image_tokens + 1


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
        places = np.arange(self.images * self.num_image_tokens).reshape(self.images, -1)
        found = official_prompts.example(self.tokenizer, whole, places, self._answers, self.kind)
        of_image = (found.kinds == vocab.VISION) & (found.tokens < places.size)
        prompts.check_length(instruction, int(np.argmax(of_image)), self.tokenizer.length)
        return found._replace(kinds=np.where(of_image, vocab.IMAGE, found.kinds).astype(np.int8))

    @property
    def prompt_length(self) -> int:
        _, kinds, _ = self.template("")
        after = int(np.argmax(kinds == self.kind) - np.argmax(kinds == vocab.IMAGE))
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
