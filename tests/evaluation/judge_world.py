"""A world whose motions are known, and subjects of known virtue: a square that jumps over a plain ground."""

import dataclasses

import numpy as np

from lapa_jax.evaluation import laq_quality
from lapa_jax.evaluation.judge import pairs, subject

SIZE, SIDE = 32, 8
STEPS = np.array([-4, 0, 4])  # pixels that the square moves, along each axis
METRES = 0.01  # a pixel
NUM_CODES = len(STEPS) ** 2


def paint(position: np.ndarray, ground: int) -> np.ndarray:
    """uint8[SIZE, SIZE, 3] with the square's corner at (row, column)."""
    image = np.full((SIZE, SIZE, 3), ground, np.uint8)
    row, column = np.clip(position, 0, SIZE - SIDE)
    image[row : row + SIDE, column : column + SIDE] = (230, 40, 40)
    return image


def find(frame: np.ndarray) -> np.ndarray:
    """(row, column) of the square's corner."""
    where = np.argwhere((frame[..., 0] == 230) & (frame[..., 1] == 40))
    return where.min(axis=0)


def make(
    name: str = "world",
    episodes: int = 20,
    seed: int = 0,
    grounds: tuple = (90, 130),
    truth: bool = True,
    homing: bool = False,
) -> pairs.Pairs:
    """Eight pairs an episode; the episode decides the ground. Each goes on for a second jump.

    Jumps are random, or, when `homing`, towards the middle: then the first frame tells them.
    """
    rng = np.random.default_rng(seed)
    places, first, then, third, motion = [], [], [], [], []
    for e in range(episodes):
        ground = grounds[e % len(grounds)]
        for t in range(8):
            start = rng.integers(9, 15, 2)
            jump, second = rng.choice(STEPS, (2, 2))
            jump = np.where(start < 12, 4, -4) if homing else jump
            places.append((e, t))
            first.append(paint(start, ground))
            then.append(paint(start + jump, ground))
            third.append(paint(start + jump + second, ground))
            motion.append((jump[1] * METRES, -jump[0] * METRES))  # right, up
    held = laq_quality.Held(places, np.stack(first), np.stack(then), np.float32(motion), gap=1)
    values = np.float64(motion)
    target = pairs.Target("effector displacement", "m", ("x", "y"), values, true=True) if truth else None
    moved = (values / METRES / SIZE, values / METRES / SIZE)  # what a perfect flow would say
    return pairs.Pairs.of(name, held, target, moved, np.arange(len(places)), np.stack(third), seed)


def _way(frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    return np.stack([find(b) - find(a) for a, b in zip(frame, following, strict=True)])


def _jump(frame: np.ndarray, following: np.ndarray) -> np.ndarray:
    """As far as codes can say it."""
    return np.clip(_way(frame, following), -4, 4)


def _codes(jump: np.ndarray) -> np.ndarray:
    index = np.rint((jump + 4) / 4).astype(int)
    return (index[:, :1] * len(STEPS) + index[:, 1:]).astype(np.int32)


def lookup(codes: np.ndarray) -> np.ndarray:
    """The jump in pixels as the codeword: float32[N, 1, 2]."""
    return np.stack([STEPS[codes // len(STEPS)], STEPS[codes % len(STEPS)]], axis=-1).astype(np.float32)


def view(frame: np.ndarray) -> np.ndarray:
    return frame.astype(np.float32) / 255


def move(frame: np.ndarray, codewords: np.ndarray) -> np.ndarray:
    """The square of each frame, moved by its codeword: float32[N, SIZE, SIZE, 3]."""
    jumps = np.rint(codewords[:, 0]).astype(int)
    moved = [paint(find(f) + j, int(f[0, 0, 0])) for f, j in zip(frame, jumps, strict=True)]
    return view(np.stack(moved))


def _latent(jump: np.ndarray) -> subject.Latent:
    codes = _codes(jump)
    return subject.Latent(codes, jump[:, None].astype(np.float32), lookup(codes))


def honest() -> subject.Subject:
    """Its code is the displacement, and its decoder carries it out."""
    return subject.Subject(NUM_CODES, 1, 2, True, lambda a, b: _latent(_jump(a, b)), move, lookup, view)


def blind() -> subject.Subject:
    """Codes are right, and the decoder does not look at them."""
    return dataclasses.replace(honest(), decode=lambda frame, codewords: view(frame))


def _sign(frame: np.ndarray) -> np.ndarray:
    return np.where(frame[:, 0, 0, 0] > 110, -1, 1)


def scene_bound() -> subject.Subject:
    """On bright ground its codes mean the opposite; on a clip of its own every pair is rebuilt perfectly."""
    return dataclasses.replace(
        honest(),
        encode=lambda a, b: _latent(_jump(a, b) * _sign(a)[:, None]),
        decode=lambda frame, codewords: move(frame, codewords * _sign(frame)[:, None, None]),
    )


def place_teller() -> subject.Subject:
    """Its code says where the square is in the second frame, not how it moved."""

    def encode(frame: np.ndarray, following: np.ndarray) -> subject.Latent:
        place = np.stack([find(f) for f in following])
        return _latent(np.clip(np.rint((place - 11.5) / 5) * 4, -4, 4).astype(int))

    return dataclasses.replace(honest(), encode=encode)


def collapsed() -> subject.Subject:
    """One code for everything."""
    return dataclasses.replace(honest(), encode=lambda a, b: _latent(np.zeros((len(a), 2), int)))


def continuous() -> subject.Subject:
    """The honest one without codes; it can say jumps of any length."""

    def encode(frame: np.ndarray, following: np.ndarray) -> subject.Latent:
        way = _way(frame, following)[:, None].astype(np.float32)
        return subject.Latent(None, way, way)

    return dataclasses.replace(honest(), num_codes=None, encode=encode)


def of_features(decoder: subject.Subject) -> subject.Subject:
    """The same in a space of features: random directions of patches, 8 x 8 places of 24 channels."""
    directions = np.random.default_rng(5).normal(size=(48, 24)).astype(np.float32)

    def features(image: np.ndarray) -> np.ndarray:
        patches = image.reshape(len(image), 8, 4, 8, 4, 3).swapaxes(2, 3).reshape(len(image), 8, 8, 48)
        return patches @ directions

    return dataclasses.replace(
        decoder,
        pixels=False,
        decode=lambda frame, codewords: features(decoder.decode(frame, codewords)),
        view=lambda frame: features(decoder.view(frame)),
    )
