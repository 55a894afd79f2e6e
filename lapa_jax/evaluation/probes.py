"""Linear probes: how much of the true motion can be read off latent action codes.

A probe that sees only codes is judged beside a control that sees only the first frame: what the
control can guess is not evidence that codes carry motion.
"""

import dataclasses

import numpy as np

from lapa_jax.errors import UserError

RIDGES = tuple(10.0**power for power in range(-4, 4))
"""Strengths that `tuned` tries, from hardly any to almost only the mean."""


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fitted linear map from features float[N, F] to targets float[N, D], in their own units.

    Attributes:
        x_mean, x_scale: float64[F]; y_mean, y_scale: float64[D], of the rows it was fitted to.
        weights: float64[F, D], between the standardised two.
    """

    x_mean: np.ndarray
    x_scale: np.ndarray
    y_mean: np.ndarray
    y_scale: np.ndarray
    weights: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float64[N, D]."""
        return (np.asarray(x, np.float64) - self.x_mean) / self.x_scale @ self.weights * self.y_scale + self.y_mean


def fit(
    x: np.ndarray, y: np.ndarray, ridges: tuple[float, ...] = (1e-3,), floor: float = 0.0
) -> list[Linear]:
    """One map for each strength of ridge. Both sides are standardised first, so a ridge has no unit.

    Args:
        x: float[N, F]. y: float[N, D].
        floor: columns of x are divided by no less than this share of the root mean square of their spreads.

    Raises:
        UserError: shapes disagree, or there are fewer than 2 rows.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    _check_split("training", x, y)
    mean, scale = _statistics(x, floor)
    statistics = (mean, scale, *_statistics(y))
    x, y = (x - statistics[0]) / statistics[1], (y - statistics[2]) / statistics[3]
    gram, cross = x.T @ x / len(x), x.T @ y / len(x)
    return [Linear(*statistics, np.linalg.solve(gram + r * np.eye(x.shape[1]), cross)) for r in ridges]


def tuned(x: np.ndarray, y: np.ndarray, stop_x: np.ndarray, stop_y: np.ndarray) -> Linear:
    """`fit` with the ridge of `RIDGES` that predicts the rows `stop_x`, `stop_y` best.

    Columns of x that hardly vary stay small: rows to come may vary more in them than these do.
    """
    maps = fit(x, y, RIDGES, floor=0.1)
    return max(maps, key=lambda m: np.nan_to_num(np.nanmean(r2(m(stop_x), stop_y)), nan=-np.inf))


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    ridge: float = 1e-3,
) -> np.ndarray:
    """Fits y = xW + b on the training rows and scores it on the test rows; see `fit` and `r2`.

    Args:
        train_x, test_x: float[N, F] and float[M, F] features.
        train_y, test_y: float[N, D] and float[M, D] targets.

    Returns:
        float64[D].

    Raises:
        UserError: shapes disagree or a split has fewer than 2 rows.
    """
    train_x, train_y, test_x, test_y = (
        np.asarray(a, np.float64) for a in (train_x, train_y, test_x, test_y)
    )
    _check_split("training", train_x, train_y)
    _check_split("test", test_x, test_y)
    if train_x.shape[1] != test_x.shape[1] or train_y.shape[1] != test_y.shape[1]:
        raise UserError("a probe's training and test rows must have equally many columns")
    return r2(fit(train_x, train_y, (ridge,))[0](test_x), test_y)


def one_hot(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """int[N, L] codes -> float64[N, L * num_codes], one block of indicators per position."""
    codes = np.asarray(codes)
    if codes.ndim != 2:
        raise UserError(f"codes must be int[N, L], got shape {codes.shape}: reshape them first")
    if codes.size and not 0 <= codes.min() <= codes.max() < num_codes:
        raise UserError(f"codes span {codes.min()}..{codes.max()}, outside 0..{num_codes - 1}")
    return np.eye(num_codes)[codes].reshape(len(codes), -1)


def frame_features(images: np.ndarray, size: int = 8) -> np.ndarray:
    """uint8[N, H, W, 3] frames, averaged over blocks -> float64[N, size * size * 3] in [0, 1]."""
    num_images, height, width, channels = images.shape
    if height % size or width % size:
        raise UserError(f"size={size} must divide the image size {height}x{width}")
    blocks = images.reshape(num_images, size, height // size, size, width // size, channels)
    return blocks.mean(axis=(2, 4), dtype=np.float64).reshape(num_images, -1) / 255.0


@dataclasses.dataclass(frozen=True)
class Projection:
    """On the main directions of some rows: mean float64[F], directions float64[F, K]."""

    mean: np.ndarray
    directions: np.ndarray

    @classmethod
    def fit(cls, x: np.ndarray, max_dims: int) -> "Projection":
        """Of float[N, F]; at most `max_dims` directions, fewer where the rows do not vary."""
        mean = x.mean(axis=0)
        _, singular, directions = np.linalg.svd(x - mean, full_matrices=False)
        kept = directions[:max_dims][singular[:max_dims] > 1e-9 * max(singular[0], 1e-12)]
        return cls(mean, kept.T)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """float[N, F] -> float[N, K]."""
        return (x - self.mean) @ self.directions


def principal_components(
    train: np.ndarray, test: np.ndarray, max_dims: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Projects both float[N, F] and float[M, F] on the main directions of `train` (<= max_dims).

    It keeps a control probe from overfitting; `test` has no say in the directions.
    """
    projection = Projection.fit(train, max_dims)
    return projection(train), projection(test)


def r2(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Share of the variance of float[N, D] targets that is predicted: float64[D].

    1 is perfect, 0 is as good as the mean of the targets, negative is worse; nan for an output that does
    not vary.
    """
    residual = np.square(target - predicted).sum(axis=0)
    total = np.square(target - target.mean(axis=0)).sum(axis=0)
    return np.where(total > 1e-24, 1.0 - residual / np.where(total > 1e-24, total, 1.0), np.nan)


def _check_split(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise UserError(f"probe {name} rows must be x[N, F], y[N, D], got {x.shape} and {y.shape}")
    if len(x) < 2:
        raise UserError(f"a probe needs at least 2 {name} rows, got {len(x)}: hold out more pairs")


def _statistics(values: np.ndarray, floor: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    scale = values.std(axis=0)
    usual = np.sqrt(np.mean(np.square(scale)))
    return values.mean(axis=0), np.maximum(np.where(scale > 1e-12, scale, 1.0), floor * usual)
