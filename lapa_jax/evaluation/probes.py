"""Linear probes: how much of the true motion can be read off latent action codes.

A probe that sees only codes is judged beside a control that sees only the first frame: what the
control can guess is not evidence that codes carry motion.
"""

import numpy as np

from lapa_jax.errors import UserError


def linear_probe(
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    ridge: float = 1e-3,
) -> np.ndarray:
    """Fits y = xW + b on the training rows and scores it on the test rows.

    Inputs and outputs are standardised with training statistics, so `ridge` has no unit.

    Args:
        train_x, test_x: float[N, F] and float[M, F] features.
        train_y, test_y: float[N, D] and float[M, D] targets.

    Returns:
        R2 on the test rows, float64[D]: 1 is perfect, 0 is as good as the test mean, negative is
        worse; nan for an output that does not vary in the test rows.

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
    x_mean, x_scale = _statistics(train_x)
    y_mean, y_scale = _statistics(train_y)
    x, y = (train_x - x_mean) / x_scale, (train_y - y_mean) / y_scale
    gram = x.T @ x / len(x) + ridge * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ y / len(x))
    predicted = (test_x - x_mean) / x_scale @ weights * y_scale + y_mean
    return _r2(predicted, test_y)


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


def principal_components(
    train: np.ndarray, test: np.ndarray, max_dims: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Projects both float[N, F] and float[M, F] on the main directions of `train` (<= max_dims).

    It keeps a control probe from overfitting; `test` has no say in the directions.
    """
    mean = train.mean(axis=0)
    _, singular, directions = np.linalg.svd(train - mean, full_matrices=False)
    kept = directions[:max_dims][singular[:max_dims] > 1e-9 * max(singular[0], 1e-12)]
    return (train - mean) @ kept.T, (test - mean) @ kept.T


def _check_split(name: str, x: np.ndarray, y: np.ndarray) -> None:
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y):
        raise UserError(f"probe {name} rows must be x[N, F], y[N, D], got {x.shape} and {y.shape}")
    if len(x) < 2:
        raise UserError(f"a probe needs at least 2 {name} rows, got {len(x)}: hold out more pairs")


def _statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = values.std(axis=0)
    return values.mean(axis=0), np.where(scale > 1e-12, scale, 1.0)


def _r2(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    residual = np.square(target - predicted).sum(axis=0)
    total = np.square(target - target.mean(axis=0)).sum(axis=0)
    return np.where(total > 1e-24, 1.0 - residual / np.where(total > 1e-24, total, 1.0), np.nan)
