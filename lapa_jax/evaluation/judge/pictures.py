"""The frames that the report shows of one dataset."""

import dataclasses
from typing import Any

import numpy as np

from lapa_jax.evaluation import laq_quality
from lapa_jax.evaluation.judge.court import Case
from lapa_jax.evaluation.judge.outcome import NotMeasured
from lapa_jax.evaluation.judge.splits import strangers

MAX_CODES = 16  # the most used ones are shown
_STRIPS, _SWAPS, _SCENES = 6, 6, 3


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Frames are uint8[..., H, W, 3]; dicts that could not be made are empty.

    Attributes:
        strips: frame, next_frame, reconstruction [S, ...] and codes [S, L].
        swaps: of clips A and B: a_first, a_later, b_first, b_moved [S, ...], and motion float64[S, 2, D] of A and
            as read off b_moved.
        codes: index [K'] of the codes shown, share [K'], frame and next [K', 4, ...] with count [K'], and where
            motion is known mean and std [K', 2].
        scenes: first [S, ...] and moved [S, K', ...], every code shown applied to a few frames.
    """

    strips: dict[str, np.ndarray]
    swaps: dict[str, np.ndarray]
    codes: dict[str, np.ndarray]
    scenes: dict[str, np.ndarray]


def take(case: Case) -> Pictures:
    """Decodes what is shown."""
    held = case.pairs.held
    show = laq_quality.picture(case.subject.view(held.frame[: laq_quality.CHUNK]), held.frame.shape[1:3])
    discrete = case.latent.codes is not None
    codes = _codes(case) if discrete else {}
    scenes = _scenes(case, codes["index"], show) if discrete else {}
    try:
        swaps = _swaps(case, show)
    except NotMeasured:
        swaps = {}
    return Pictures(_strips(case, show), swaps, codes, scenes)


def _strips(case: Case, show: Any) -> dict[str, np.ndarray]:
    held = case.pairs.held
    rows = _spread(len(case.pairs), _STRIPS)
    decoded = case.subject.decode(held.frame[rows], case.latent.codewords[rows])
    seen = [show(case.subject.view(frames[rows])) for frames in (held.frame, held.following)]
    codes = np.full((len(rows), 1), "continuous") if case.latent.codes is None else case.latent.codes[rows]
    return {
        "frame": seen[0],
        "next_frame": seen[1],
        "reconstruction": show(decoded),
        "codes": codes,
    }


def _swaps(case: Case, show: Any) -> dict[str, np.ndarray]:
    pairs, held = case.pairs, case.pairs.held
    rows = pairs.split.test if pairs.split is not None else np.arange(len(pairs))
    others = strangers(pairs.episodes, rows, case.seed)
    chosen = _spread(len(rows), _SWAPS)
    a, b = rows[chosen], others[chosen]
    found = {
        "a_first": held.frame[a],
        "a_later": held.following[a],
        "b_first": held.frame[b],
        "b_moved": show(case.subject.decode(held.frame[b], case.latent.codewords[a])),
    }
    try:
        wanted = pairs.target.values if pairs.split is not None and pairs.target is not None else None
        if wanted is not None and wanted.shape[1] >= 2:
            read = case.read(case.meter(wanted), held.frame[b], case.latent.rows(a))
            found["motion"] = np.stack([wanted[a], read], axis=1)
    except NotMeasured:
        pass  # the frames speak for themselves
    return found


def _codes(case: Case) -> dict[str, np.ndarray]:
    codes, target = case.latent.codes, case.pairs.target
    usage = np.bincount(codes.reshape(-1), minlength=case.subject.num_codes) / codes.size
    index = np.sort(np.argsort(-usage, kind="stable")[:MAX_CODES])
    shown = np.full(case.subject.num_codes, -1)
    shown[index] = np.arange(len(index))
    held = case.pairs.held
    found = laq_quality.code_examples(held.frame, held.following, shown[codes], len(index))
    found = {name.removeprefix("code_examples_"): value for name, value in found.items()}
    found |= {"index": index, "share": usage[index]}
    if target is not None and target.values.shape[1] >= 2:
        moved = laq_quality.code_motion(shown[codes], target.values, len(index))
        found |= {"mean": moved["code_motion"], "std": moved["code_motion_std"]}
    return found


def _scenes(case: Case, index: np.ndarray, show: Any) -> dict[str, np.ndarray]:
    first = case.pairs.held.frame[_spread(len(case.pairs), _SCENES)]
    columns = []
    for code in index:
        codes = np.full((len(first), case.subject.code_length), code, np.int32)
        columns.append(show(case.subject.decode(first, case.subject.lookup(codes))))
    return {"first": first, "moved": np.stack(columns, axis=1)}


def _spread(count: int, wanted: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(wanted, count)).astype(int))
