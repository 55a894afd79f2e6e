"""Three named streams of batches, each a pure function of (seed, batch number).

There is no shuffle buffer: indices are shuffled and frames decoded on demand, so that memory is
flat, a resumed stream continues exactly, and any number of processes sees the same global batches.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import grain
import numpy as np

from lapa_jax import errors
from lapa_jax.data import latents as latents_lib
from lapa_jax.data import prompts, rlds, transforms
from lapa_jax.data import statistics as statistics_lib

Batch = dict[str, np.ndarray]
Spec = dict[str, tuple[tuple[int, ...], np.dtype]]
_Example = Callable[[tuple[int, int], np.random.Generator], Batch]


@dataclasses.dataclass(frozen=True)
class Order:
    """Which examples come when, and which of them this process gets.

    Attributes:
        batch_size: global; each process gets `batch_size / process_count` of it.
        seed: of the shuffle and of every random choice.
        shuffle: a new order in each epoch; False reads in stored order.
        repeat: forever, full batches only; False is one epoch with a partial last batch (of
            several processes, some may then get one batch fewer).
        process_index: this process, 0 <= process_index < process_count.
        process_count: the local batches of all processes together are the global batch.
        num_threads: that read ahead; 0 reads when asked.
    """

    batch_size: int
    seed: int = 0
    shuffle: bool = True
    repeat: bool = True
    process_index: int = 0
    process_count: int = 1
    num_threads: int = 2

    def __post_init__(self):
        if self.batch_size < 1 or self.batch_size % self.process_count:
            raise errors.UserError(
                f"batch_size {self.batch_size} does not divide over {self.process_count} "
                "processes; choose a positive multiple"
            )
        if not 0 <= self.process_index < self.process_count:
            raise errors.UserError(
                f"process_index {self.process_index} is outside 0..{self.process_count - 1}"
            )

    @property
    def local_batch_size(self) -> int:
        return self.batch_size // self.process_count


class Stream:
    """An iterator of batches whose position can be saved and restored.

    Attributes:
        spec: name -> (shape, dtype) of a full local batch.
        num_examples: examples in one epoch, over all processes.
    """

    def __init__(self, index: transforms.StepIndex, example: _Example, order: Order, name: str):
        self.num_examples = len(index)
        self._identity = {
            "batch_size": order.batch_size, "seed": order.seed, "shuffle": order.shuffle,
            "stream": name,
        }
        first = example(index[0], np.random.default_rng(0))
        rows = order.local_batch_size
        self.spec: Spec = {k: ((rows, *v.shape), v.dtype) for k, v in first.items()}
        self._iterator = iter(_pipeline(index, example, order))

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The position after the last batch taken, as values that JSON can hold."""
        return {"position": self._iterator.get_state(), **self._identity}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues after the batch at which `state` was taken, with any number of processes.

        Raises:
            UserError: the state is of another stream: other data, seed or batch size.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise errors.UserError(
                    f"cannot resume the data: {name} was {state.get(name)!r} and is now {value!r};"
                    " use the old value or start a new run"
                )
        self._iterator.set_state(state["position"])


def frame_pairs(
    episodes: rlds.Episodes, gap: int, batch_size: int, seed: int = 0,
    image_size: int | None = None, **order: Any,
) -> Stream:
    """Pairs of frames `gap` steps apart: frame, next_frame uint8[B, H, W, 3].

    `order` takes the other fields of `Order`. Raises UserError when no episode is longer than
    `gap`.
    """
    index = _pairs(episodes, gap)

    def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
        del rng
        episode, t = at
        return {
            "frame": episodes.frame(episode, t, image_size),
            "next_frame": episodes.frame(episode, t + gap, image_size),
        }

    name = _name("frame_pairs", episodes, gap, image_size)
    return Stream(index, example, Order(batch_size, seed, **order), name)


def latent_stream(
    episodes: rlds.Episodes, latents: latents_lib.Latents, tokenizer: prompts.Tokenizer,
    batch_size: int, seed: int = 0, image_size: int | None = None,
    blank_instruction_rate: float = 0.0, **order: Any,
) -> Stream:
    """Frames with their latent action: image uint8[B, H, W, 3], text int32[B, L],
    latents int32[B, N].

    Each example has its instruction replaced by the empty one with probability
    `blank_instruction_rate`. `order` takes the other fields of `Order`.
    """
    if not 0 <= blank_instruction_rate <= 1:
        raise errors.UserError(
            f"blank_instruction_rate {blank_instruction_rate} is not a probability; use 0..1"
        )
    index, text = _pairs(episodes, latents.gap), _encode_all(episodes, tokenizer)
    blank = tokenizer.encode_blank()

    def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
        episode, t = at
        return {
            "image": episodes.frame(episode, t, image_size),
            "text": blank if rng.random() < blank_instruction_rate else text[episode],
            "latents": latents.codes(episode)[t],
        }

    name = _name("latents", episodes, latents.gap, image_size, blank_instruction_rate)
    return Stream(index, example, Order(batch_size, seed, **order), name)


def action_stream(
    episodes: rlds.Episodes, tokenizer: prompts.Tokenizer, statistics: statistics_lib.Statistics,
    horizon: int, batch_size: int, seed: int = 0, image_size: int | None = None, **order: Any,
) -> Stream:
    """Frames with the actions that follow: image uint8[B, H, W, 3], text int32[B, L],
    actions float32[B, horizon, A] normalised, action_mask bool[B, horizon].

    Past the end of an episode its last action repeats and the mask is False. `order` takes the
    other fields of `Order`. Raises UserError for the video view, which has no actions.
    """
    if horizon < 1:
        raise errors.UserError(f"horizon {horizon} holds no action; use 1 or more")
    actions = [statistics.normalise(trajectory) for trajectory in episodes["action"]]
    index, text = transforms.StepIndex(episodes.lengths), _encode_all(episodes, tokenizer)

    def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
        del rng
        episode, t = at
        chunk, mask = transforms.chunk(actions[episode], t, horizon)
        image = episodes.frame(episode, t, image_size)
        return {"image": image, "text": text[episode], "actions": chunk, "action_mask": mask}

    name = _name("actions", episodes, horizon, image_size)
    return Stream(index, example, Order(batch_size, seed, **order), name)


def _pairs(episodes: rlds.Episodes, gap: int) -> transforms.StepIndex:
    index = transforms.StepIndex(episodes.lengths, gap)
    if gap < 1:
        raise errors.UserError(f"gap {gap} pairs a frame with itself or its past; use 1 or more")
    if not len(index):
        raise errors.UserError(
            f"no episode is longer than the gap of {gap} steps (the longest has "
            f"{int(episodes.lengths.max())}); use a smaller gap"
        )
    return index


def _encode_all(episodes: rlds.Episodes, tokenizer: prompts.Tokenizer) -> list[np.ndarray]:
    encoded = {text: tokenizer.encode(text) for text in set(episodes.instructions)}
    return [encoded[text] for text in episodes.instructions]


def _name(kind: str, episodes: rlds.Episodes, *choices: Any) -> str:
    identity = repr((kind, episodes.fingerprint, choices))
    return f"{kind}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"


def _pipeline(
    index: transforms.StepIndex, example: _Example, order: Order
) -> grain.IterDataset[Batch]:
    dataset = grain.MapDataset.source(index).seed(order.seed)
    if order.shuffle:
        dataset = dataset.shuffle()
    if order.repeat:
        dataset = dataset.repeat()
    # Random choices are made before the split over processes: they hang on the global position.
    dataset = dataset.random_map(example)
    if order.process_count > 1:
        dataset = dataset[order.process_index :: order.process_count]
    dataset = dataset.batch(order.local_batch_size, drop_remainder=order.repeat)
    ahead = 2 * order.num_threads
    return dataset.to_iter_dataset(
        grain.ReadOptions(num_threads=order.num_threads, prefetch_buffer_size=ahead)
    )
