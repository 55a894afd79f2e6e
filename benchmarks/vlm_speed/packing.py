"""Rows of one example beside rows that several share: useful tokens a second of the same stage-2 train step."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import latent_task, optimizers, trained, training, vocab
from lapa_jax.data import latent_rows, layouts, packing, prompts, sequences
from lapa_jax.models import vlm
from race.turns import Speeds, race, timed
from vlm_speed import sizes
from vlm_speed.job import LEARNING_RATE

BASELINE = "padded"
CYCLE = 4  # batches that are gone through again and again
NUM_CODES = 8


@dataclasses.dataclass(frozen=True)
class Case:
    """What rows are filled with.

    Attributes:
        places: of an image.
        features: of each of them; None: they are ids of vision tokens.
        words: (share, least, most) of the ids in front of the image, drawn evenly in each.
        padded: places in a row of one example; None: as many as the longest one takes.
        rows: lengths of shared rows to try.
    """

    places: int
    features: int | None
    words: tuple[tuple[float, int, int], ...]
    padded: int | None
    rows: tuple[int, ...]

    def instructions(self, count: int) -> list[str]:
        random = np.random.default_rng(0)
        shares, least, most = (np.array(column) for column in zip(*self.words, strict=True))
        kind = random.choice(len(shares), count, p=shares)
        lengths = random.integers(least[kind], most[kind] + 1)
        return [" ".join(f"w{word}" for word in random.integers(0, 100, length - 1)) for length in lengths]

    def image(self, random: np.random.Generator) -> np.ndarray:
        if self.features is None:
            return random.integers(0, vocab.NUM_IMAGE_CODES, self.places, np.int32)
        return random.standard_normal((self.places, self.features), np.float32)


CASES = {
    # 40 ids of the official prompt and 4 to 20 of an instruction, in rows of 384 as official LAPA has them
    "tokens": Case(256, None, ((1.0, 44, 60),), 384, (640, 960, 1920)),
    # SigLIP at 224 px, averaged over squares of two; one instruction in twenty is a long one
    "features": Case(49, 768, ((0.95, 4, 20), (0.05, 60, 100)), None, (320, 640, 1280)),
    "toy": Case(4, None, ((1.0, 4, 9),), None, (32,)),
}


@dataclasses.dataclass(frozen=True)
class Found:
    """
    Attributes:
        speeds: useful tokens a second by name of contestant.
        filled: share of places with a token, over the batches that were measured.
        rows: of a batch.
    """

    speeds: Speeds
    filled: dict[str, float]
    rows: dict[str, int]


def measure(size: sizes.Sizes, case: Case, places: int, rounds: int, seconds: float) -> Found:
    """All row lengths in turn.

    Args:
        places: of a batch, about.
    """
    lengths = {BASELINE: (case.padded, False)} | {f"packed {row}": (row, True) for row in case.rows}
    shared = Shared(size, case)
    lanes = {name: Lane(shared, places, *row) for name, row in lengths.items()}
    speeds = race(lanes, "train", {name: lane.useful for name, lane in lanes.items()}, rounds, seconds)
    filled = {name: lane.useful / (lane.count * lane.rows.length) for name, lane in lanes.items()}
    return Found(speeds, filled, {name: lane.count for name, lane in lanes.items()})


class Shared:
    """What all row lengths have in common: examples, the model and its train state."""

    def __init__(self, size: sizes.Sizes, case: Case) -> None:
        self.case, self.instructions = case, case.instructions(1000)
        longest = max(most for _, _, most in case.words)
        words = prompts.train_tokenizer(self.instructions, longest)
        self.layout = layouts.make("clean", words, num_image_tokens=case.places, code_length=sizes.CODES)
        vision = {} if case.features else {"vision": vocab.NUM_IMAGE_CODES}
        self.model = vlm.LatentActionVLM(
            vocabs={"text": words.vocab_size, "latent": NUM_CODES} | vision,
            heads=("latent",),
            trunk=size.trunk,
            image="features" if case.features else "tokens",
        )
        self.planner = trained.Planner({}, self.model, self.layout, None, 0)
        self.tx, _ = optimizers.make(1, learning_rate=LEARNING_RATE, end_learning_rate=LEARNING_RATE)
        self.state = None

    def begin(self, batch: latent_task.Completed) -> None:
        init = training.make_init(lambda key: self.model.init(key, batch.tokens, batch.image), self.tx)
        self.state = jax.jit(init)(jax.random.key(0))


class Lane:
    """Rows of one length. Called with ("train", steps) it trains, through the step and loss of stage 2."""

    def __init__(self, shared: Shared, places: int, length: int | None, packed: bool) -> None:
        self.shared = shared
        self.rows = latent_rows.Rows.of(shared.layout, shared.instructions, length, packed)
        self.count = max(places // self.rows.length, 1)
        self.task = latent_task.LatentTask(shared.planner, self.rows, {"latent": 1.0})
        batches = self._batches()
        self.useful = float(np.mean([np.sum(batch["segments"] > 0) for batch in batches]))
        self._batches_again = itertools.cycle([jax.tree.map(jnp.asarray, batch) for batch in batches])
        if shared.state is None:
            shared.begin(self.task.completed({}, batches[0]))
        step = training.make_train_step(self._loss, shared.tx)
        self._step = step.lower(shared.state, next(self._batches_again)).compile()

    def __call__(self, task: str, steps: int) -> tuple[float, float]:
        del task
        return timed(self._run, steps)

    def _run(self) -> None:
        self.shared.state, metrics = self._step(self.shared.state, next(self._batches_again))
        float(metrics["loss"])

    def _loss(self, params: Any, variables: Any, batch: Any, key: jax.Array) -> Any:
        del key
        loss, log = self.task.loss(params, variables, batch)
        return loss, (log, variables)

    def _batches(self) -> list[dict[str, np.ndarray]]:
        """As a stream of stage 2 would give them, in order."""
        random, templates = np.random.default_rng(1), [*map(self.shared.layout.template, self.shared.instructions)]
        whole = [one.size if self.rows.packed else self.rows.length for one in templates]

        def size(number: int) -> int | None:
            return whole[number] if number < len(whole) else None

        def example(number: int) -> dict[str, Any]:
            codes = random.integers(0, NUM_CODES, sizes.CODES)
            sequence = layouts.with_latents(templates[number], codes)
            return {latent_rows.SEQUENCE: sequence, "image": self.shared.case.image(random)}

        planner = packing.Planner(size, self.rows.length, self.rows.window)
        plans = [planner.batch(self.count) for _ in range(CYCLE)]
        return [sequences.stack([self.rows.together([*map(example, row)]) for row in plan]) for plan in plans]
