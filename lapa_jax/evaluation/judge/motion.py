"""How much of the true motion probes read off latent actions, beside what they read off other things."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lapa_jax.evaluation import probes
from lapa_jax.evaluation.judge import flow, mlp
from lapa_jax.evaluation.judge.outcome import KEY, NotMeasured
from lapa_jax.evaluation.judge.pairs import Pairs
from lapa_jax.evaluation.judge.splits import Split, interval
from lapa_jax.evaluation.judge.subject import Latent

MAX_FEATURES = 256  # a probe sees that many main directions of wider inputs
_THUMBNAIL = 64  # main directions of the first frame
_WIDE, _SCATTER = 8192, 1024  # codes times positions beyond which one-hot is projected, and to how many numbers

Read = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Reader:
    """A fitted linear probe float[N, F] -> motion float64[N, D].

    Attributes:
        project: on main directions, where there are many features.
        low, high: float64[K]; features beyond are cut to them.
        linear: the probe itself.
    """

    project: probes.Projection | None
    low: np.ndarray
    high: np.ndarray
    linear: probes.Linear

    @classmethod
    def fit(cls, x: np.ndarray, y: np.ndarray, split: Split, cut: bool = False) -> "Reader":
        """To the rows `split.fit` of x and y; the ridge is chosen on `split.stop`.

        Args:
            cut: keep features within the range that they are fitted to. For descriptors of images: a place
                in the frame where nothing moved then has a weight that means nothing. Not for latent actions,
                which may rightly say more than any pair before.
        """
        project = probes.Projection.fit(x[split.fit], MAX_FEATURES) if x.shape[1] > MAX_FEATURES else None
        kept = x if project is None else project(x)
        fitted = kept[split.fit]
        ends = (fitted.min(axis=0), fitted.max(axis=0)) if cut else np.array([[-np.inf], [np.inf]])
        kept = np.clip(kept, *ends)
        return cls(project, *ends, probes.tuned(kept[split.fit], y[split.fit], kept[split.stop], y[split.stop]))

    def features(self, x: np.ndarray) -> np.ndarray:
        """What the linear map sees: float[N, K]."""
        return np.clip(x if self.project is None else self.project(x), self.low, self.high)

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.linear(self.features(x))


def score(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """Mean R2 over the columns that vary; nan where none does."""
    r2 = probes.r2(predicted, wanted)
    return float(np.nanmean(r2)) if np.isfinite(r2).any() else float("nan")


def inputs(latent: Latent, num_codes: int | None, kind: str) -> np.ndarray:
    """What a probe sees of N latent actions: float[N, F]. `kind`: codes, codewords or z.

    Codes are one-hot, or a random vector for each where that would be too wide.

    Raises:
        NotMeasured: codes of a continuous quantiser.
    """
    if kind != "codes":
        return getattr(latent, kind).reshape(len(latent.z), -1).astype(np.float64)
    if latent.codes is None:
        raise NotMeasured("the quantiser is continuous and has no codes")
    if latent.codes.shape[1] * num_codes <= _WIDE:
        return probes.one_hot(latent.codes, num_codes)
    return _scattered(latent.codes, num_codes)


def _scattered(codes: np.ndarray, num_codes: int) -> np.ndarray:
    """A random projection of the one-hot codes int[N, L]: float64[N, 1024], the same for the same code."""
    found = np.zeros((len(codes), _SCATTER))
    for position, column in enumerate(codes.T):
        used, index = np.unique(column, return_inverse=True)
        vectors = [np.random.default_rng((position, int(code))).normal(size=_SCATTER) for code in used]
        found += np.stack(vectors)[index]
    return found / np.sqrt(_SCATTER)


def main_kind(num_codes: int | None) -> str:
    """What stands for the latent action in most measures: its codes, where there are any."""
    return "codewords" if num_codes is None else "codes"


def probe(x: np.ndarray, pairs: Pairs, seed: int, cut: bool = False) -> dict[str, Any]:
    """Linear and MLP probes from float[N, F] to the motion of the pairs; R2 on episodes not fitted to."""
    split, wanted = pairs.split, pairs.target.values
    reader = Reader.fit(x, wanted, split, cut)
    x = reader.features(x)
    bent = mlp.fit(x[split.fit], wanted[split.fit], x[split.stop], wanted[split.stop], seed)
    fitted = (("linear", reader.linear), ("mlp", bent))
    return {name: _scored(read(x[split.test]), pairs, seed) for name, read in fitted}


def measure(pairs: Pairs, latent: Latent, num_codes: int | None, seed: int) -> dict[str, Any]:
    """R2 of probes of the latent action and of its controls.

    `latent` repeats the probe of the codes, or of the codewords of a continuous quantiser.
    `over_first_frame` is how far its linear probe is above what the better probe of the first frame
    reads (0 where that reads nothing), `of_bound` the share of what optical flow gives.

    Raises:
        NotMeasured: no motion is known, or too few episodes.
    """
    if "split" in pairs.why:
        raise NotMeasured(pairs.why["split"])
    if pairs.target is None:
        raise NotMeasured(f"{pairs.why['truth']}, and flow cannot stand in: {pairs.why['flow']}")
    found: dict[str, Any] = {}
    for kind in ("codes", "codewords", "z"):
        try:
            found[kind] = probe(inputs(latent, num_codes, kind), pairs, seed)
        except NotMeasured as error:
            found[kind] = {KEY: str(error)}
    found["latent"] = found[main_kind(num_codes)]
    shuffled = np.random.default_rng(seed).permutation(len(pairs))
    found["shuffled"] = probe(inputs(latent.rows(shuffled), num_codes, main_kind(num_codes)), pairs, seed)
    found["first_frame"] = probe(_thumbnails(pairs), pairs, seed)
    found["flow"] = _bound(pairs, seed)
    read = found["latent"]["linear"]["r2"]
    blind = max(found["first_frame"][k]["r2"] for k in ("linear", "mlp"))
    found["over_first_frame"] = read - max(blind, 0.0)
    found["of_bound"] = _of_bound(read, found["flow"])
    found["target"] = {
        "name": pairs.target.name,
        "unit": pairs.target.unit,
        "columns": pairs.target.columns,
        "true": pairs.target.true,
        "std": pairs.target.values.std(axis=0),
    }
    return found


def _scored(predicted: np.ndarray, pairs: Pairs, seed: int) -> dict[str, Any]:
    rows = pairs.split.test
    wanted = pairs.target.values[rows]
    spread = interval(lambda r: score(predicted[r], wanted[r]), pairs.episodes[rows], seed)
    return {"r2": score(predicted, wanted), "columns": probes.r2(predicted, wanted), "interval": spread}


def _thumbnails(pairs: Pairs) -> np.ndarray:
    """The first frame in 64 numbers at most: float64[N, F]."""
    small = flow.pooled(pairs.held.frame).reshape(len(pairs), -1) / 255.0
    return probes.Projection.fit(small[pairs.split.fit].astype(np.float64), _THUMBNAIL)(small)


def _bound(pairs: Pairs, seed: int) -> dict[str, Any]:
    if pairs.flow is None:
        return {KEY: pairs.why["flow"]}
    if not pairs.target.true:
        return {KEY: "the motion to read is itself measured by flow"}
    return probe(pairs.flow[1], pairs, seed, cut=True)


def _of_bound(read: float, bound: Mapping[str, Any]) -> float | dict[str, str]:
    if KEY in bound:
        return dict(bound)
    best = max(bound[kind]["r2"] for kind in ("linear", "mlp"))
    if not best > 0.1:
        return {KEY: f"optical flow does not read this motion either (R2 {best:.2f})"}
    return read / best
