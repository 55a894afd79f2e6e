"""All measures of one subject on one dataset, and those that compare datasets."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from lapa_jax.evaluation import laq_quality
from lapa_jax.evaluation.judge import consistency, control, flow, images, meters, motion, swap, usage
from lapa_jax.evaluation.judge.outcome import KEY, NotMeasured, attempt
from lapa_jax.evaluation.judge.pairs import Pairs
from lapa_jax.evaluation.judge.splits import strangers
from lapa_jax.evaluation.judge.subject import Latent, Subject

_FEW = 10  # triples below which composition is not measured
_ACROSS = 200  # pairs of each two datasets whose codes are swapped

Lpips = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Rebuilt:
    """What decoding all pairs left behind; the decoded frames themselves are not kept.

    Attributes:
        scores: see `images.rows`.
        random: float64[DRAWS, N], mean squared errors with random codes.
        real, own: descriptor -> float32[N, F], of (x1, x2) and of (x1, decoded).
    """

    scores: dict[str, np.ndarray]
    random: np.ndarray
    real: dict[str, np.ndarray]
    own: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Case:
    """A subject before one dataset.

    Attributes:
        subject: the model.
        pairs: of the dataset.
        latent: latent actions of the pairs.
        describe: see `meters.describers`.
        rebuilt: see `Rebuilt`.
        seed: of every random choice.
    """

    subject: Subject
    pairs: Pairs
    latent: Latent
    describe: dict[str, meters.Describe]
    rebuilt: Rebuilt
    seed: int

    @classmethod
    def open(cls, subject: Subject, pairs: Pairs, seed: int, lpips: Lpips | None = None) -> "Case":
        """Encodes the pairs and decodes them, with their own codes and with random ones."""
        held = pairs.held
        latent = subject.encode(held.frame, held.following)
        describe = meters.describers(subject, held.frame[: laq_quality.CHUNK])
        return cls(subject, pairs, latent, describe, rebuild(subject, pairs, latent, describe, seed, lpips), seed)

    def meter(self, wanted: np.ndarray) -> meters.Meter:
        """Reads float64[N, D] off frames; see `meters.Meter.fit`."""
        return meters.Meter.fit(self.rebuilt.real, wanted, self.pairs.split)

    def read(self, meter: meters.Meter, frame: np.ndarray, latent: Latent) -> np.ndarray:
        """Motion that latent actions make of uint8[N, H, W, 3] frames: float64[N, D]."""
        parts = []
        for rows in _blocks(len(frame)):
            view, decoded = self.subject.view(frame[rows]), self.subject.decode(frame[rows], latent.codewords[rows])
            parts.append(meter.reader(self.describe[meter.kind](view, decoded)))
        return np.concatenate(parts)

    def results(self) -> dict[str, Any]:
        """Every measure by name; one that cannot be taken says why."""
        pairs, subject, latent = self.pairs, self.subject, self.latent
        kinds = {True: ("codes", "codewords", "z"), False: ("codewords", "z")}[subject.num_codes is not None]
        laws = {kind: attempt(self._laws, kind) for kind in kinds}
        main = laws[motion.main_kind(subject.num_codes)]
        return {
            "about": {"pairs": len(pairs), "episodes": len(np.unique(pairs.episodes)), "gap": pairs.held.gap},
            "usage": attempt(usage.measure, latent.codes, subject.num_codes),
            "spread": {"z": usage.spread(latent.z), "codewords": usage.spread(latent.codewords)},
            "images": images.measure(self.rebuilt.scores, pairs.episodes, subject.pixels, self.seed),
            "control": control.measure(
                self.rebuilt.scores["mse"], self.rebuilt.random, pairs.episodes, subject.pixels, self.seed
            ),
            "probes": attempt(motion.measure, pairs, latent, subject.num_codes, self.seed),
            "swap": attempt(self._swap),
            "reversal": _law(main, "reversal"),
            "composition": _law(main, "composition"),
            "laws_by_kind": laws,
        }

    def _target(self) -> np.ndarray:
        if "split" in self.pairs.why:
            raise NotMeasured(self.pairs.why["split"])
        if self.pairs.target is None:
            raise NotMeasured(f"{self.pairs.why['truth']}, and flow cannot stand in: {self.pairs.why['flow']}")
        return self.pairs.target.values

    def _swap(self) -> dict[str, Any]:
        wanted, pairs, rows = self._target(), self.pairs, self.pairs.split.test
        others = strangers(pairs.episodes, rows, self.seed)
        meter = self.meter(wanted)
        own = meter.reader(self.rebuilt.own[meter.kind][rows])
        swapped = self.read(meter, pairs.held.frame[others], self.latent.rows(rows))
        return swap.measure(swapped, own, wanted[rows], meter, pairs.episodes[rows], self.seed)

    def _laws(self, kind: str) -> dict[str, Any]:
        """Reversal and composition of what a linear probe reads off one part of the latent action."""
        wanted, pairs, num_codes = self._target(), self.pairs, self.subject.num_codes
        reader = motion.Reader.fit(motion.inputs(self.latent, num_codes, kind), wanted, pairs.split)

        def read(latent: Latent) -> np.ndarray:
            return reader(motion.inputs(latent, num_codes, kind))

        found = {"reversal": self._reversal(read, wanted)}
        return found | {"composition": attempt(self._composition, read, wanted, found["reversal"]["forward_r2"])}

    def _reversal(self, read: Callable[[Latent], np.ndarray], wanted: np.ndarray) -> dict[str, Any]:
        rows, held = self.pairs.split.test, self.pairs.held
        back = self.subject.encode(held.following[rows], held.frame[rows])
        found = consistency.reversal(
            read(self.latent.rows(rows)), read(back), wanted[rows], self.pairs.episodes[rows], self.seed
        )
        errors = []
        for block in _blocks(len(rows)):
            here, there = (self.subject.view(frames[rows[block]]) for frames in (held.following, held.frame))
            decoded = self.subject.decode(held.following[rows[block]], back.codewords[block])
            errors.append({name: images.squared_error(v, there) for name, v in (("own", decoded), ("copy", here))})
        error, copied = (max(float(values.mean()), 1e-12) for values in _joined(errors).values())
        return found | {"decoded_gain_db": float(10 * np.log10(copied / error))}

    def _composition(
        self, read: Callable[[Latent], np.ndarray], wanted: np.ndarray, forward_r2: float
    ) -> dict[str, Any]:
        if not forward_r2 >= meters.LEAST:
            raise NotMeasured(f"what is read off single pairs is not their motion (R2 {forward_r2:.2f})")
        pairs, held = self.pairs, self.pairs.held
        chosen = np.isin(pairs.triple, pairs.split.test)
        rows, third = pairs.triple[chosen], pairs.third[chosen]
        if len(rows) < _FEW:
            raise NotMeasured(f"only {len(rows)} pairs to score go on for a second gap")
        second = self.subject.encode(held.following[rows], third)
        direct = self.subject.encode(held.frame[rows], third)
        steps = (read(latent) for latent in (self.latent.rows(rows), second, direct))
        return consistency.composition(*steps, wanted.std(axis=0), pairs.episodes[rows], self.seed)


def rebuild(
    subject: Subject,
    pairs: Pairs,
    latent: Latent,
    describe: dict[str, meters.Describe],
    seed: int,
    lpips: Lpips | None = None,
) -> Rebuilt:
    """Decodes every pair, block by block, and keeps scores and descriptors."""
    random = control.random_rows(len(pairs), seed)
    scores, errors, real, own = [], [], [], []
    for rows in _blocks(len(pairs)):
        frame = pairs.held.frame[rows]
        first, then = subject.view(frame), subject.view(pairs.held.following[rows])
        decoded = subject.decode(frame, latent.codewords[rows])
        scores.append(images.rows(first, then, decoded, subject.pixels))
        if lpips is not None and subject.pixels:
            scores[-1] |= {"lpips": lpips(decoded, then), "copy_lpips": lpips(first, then)}
        others = [subject.decode(frame, latent.codewords[draw[rows]]) for draw in random]
        errors.append(np.stack([images.squared_error(other, then) for other in others]))
        real.append({kind: say(first, then) for kind, say in describe.items()})
        own.append({kind: say(first, decoded) for kind, say in describe.items()})
    return Rebuilt(_joined(scores), np.concatenate(errors, axis=1), _joined(real), _joined(own))


def across(cases: dict[str, Case], seed: int) -> dict[str, Any]:
    """What can only be said of several datasets: do they share codes, and do codes move between them?"""
    codes = {name: case.latent.codes for name, case in cases.items()}
    episodes = {name: case.pairs.episodes for name, case in cases.items()}
    num_codes = next(iter(cases.values())).subject.num_codes
    return {
        "overlap": attempt(usage.overlap, codes, episodes, num_codes, seed),
        "swap": attempt(swap_matrix, cases, seed),
    }


def swap_matrix(cases: dict[str, Case], seed: int) -> dict[str, Any]:
    """Codes of one dataset on first frames of another, by the motion in the image that results.

    Robots measure motion in units of their own; here it is optical flow in widths of the frame, on both sides.
    `matrix[i][j]` is the cosine above chance of codes of dataset i on frames of dataset j.

    Raises:
        NotMeasured: one dataset only, no OpenCV, or no two datasets whose flow can be read.
    """
    if len(cases) < 2:
        raise NotMeasured("one dataset only; give several with data.mixture")
    if not flow.available():
        raise NotMeasured(flow.MISSING)
    names, reasons = list(cases), {}
    matrix = np.full((len(names), len(names)), np.nan)
    for j, onto in enumerate(names):
        case = cases[onto]
        found = attempt(lambda case=case: {"meter": _flow_meter(case)})
        if KEY in found:
            reasons[onto] = found[KEY]
            continue
        for i, source in enumerate(names):
            if cases[source].pairs.split is not None:
                matrix[i, j] = _onto(cases[source], case, found["meter"], seed)
    apart = matrix[~np.eye(len(names), dtype=bool)]
    if not np.isfinite(apart).any():
        raise NotMeasured("; ".join(f"{name}: {reason}" for name, reason in reasons.items()) or "too few episodes")
    return {"names": names, "matrix": matrix, "lowest": float(np.nanmin(apart)), "left_out": reasons}


def _flow_meter(case: Case) -> meters.Meter:
    if case.pairs.split is None:
        raise NotMeasured(case.pairs.why["split"])
    return case.meter(case.pairs.flow[0])


def _onto(source: Case, case: Case, meter: meters.Meter, seed: int) -> float:
    """Cosine above chance of the source's codes on frames of another dataset."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(source.pairs.split.test)[:_ACROSS]
    frames = case.pairs.held.frame[rng.choice(case.pairs.split.test, len(rows))]
    read = case.read(meter, frames, source.latent.rows(rows))
    wanted = source.pairs.flow[0][rows]
    return swap.measure(read, read, wanted, meter, source.pairs.episodes[rows], seed)["over_chance"]


def _law(found: dict[str, Any], name: str) -> dict[str, Any]:
    return found if KEY in found else found[name]


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, laq_quality.CHUNK):
        yield slice(start, min(start + laq_quality.CHUNK, count))


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
