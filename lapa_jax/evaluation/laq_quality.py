"""How good a LAQ is, on held-out episodes: codes in use, reconstruction, what the codes know of motion."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import metrics, sharding, training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import gaps
from lapa_jax.evaluation import probes
from lapa_jax.models import laq

USED = 0.02
"""A code counts as used when it labels at least this fraction of the held-out pairs."""
CHUNK = 100
"""Pairs per call of the model."""


def evaluate(
    model: laq.LatentActionQuantizer,
    state: training.TrainState,
    robot: episodes_lib.Mixture,
    data: Mapping[str, Any],
    num_pairs: int,
) -> dict[str, Any]:
    """Summary and gallery of a LAQ on `num_pairs` held-out pairs, as many from each dataset.

    Codes are made from pixels alone; the true effector displacement (metres) serves the probes only
    and is skipped for datasets that have none. Of several datasets, `datasets` has each one's summary.
    """
    count = -(-num_pairs // len(robot.members))
    held = [Held.sample(member, data["gap"], count, data["image_size"]) for member in robot.members]
    pooled = Held.pooled(held)
    passed = run(model, state, pooled.frame, pooled.following)
    summary = _summary(passed, model.num_codes)
    summary |= {"gap": held[0].gap, "gap_seconds": data["gap"]}
    gallery = strips(pooled.frame, pooled.following, passed)
    each = {}
    for name, part, rows in zip(_names(robot), held, _slices(held), strict=True):
        one = passed.rows(rows)
        each[name] = _summary(one, model.num_codes)
        if part.motion is not None:
            each[name] |= probe(part, one, model.num_codes)
            if "probe_r2" not in summary:  # of the first dataset that has an effector
                gallery |= code_motion(one.codes, part.motion, model.num_codes) if model.discrete else {}
                summary |= {key: each[name][key] for key in ("probe_r2", "z_probe_r2", "control_r2")}
    summary |= {"datasets": each} if len(each) > 1 else {}
    if model.discrete:
        gallery |= code_examples(pooled.frame, pooled.following, passed.codes, model.num_codes)
        gallery |= swaps(model, state, pooled.frame, passed.to_image)
    return {"summary": summary, "gallery": gallery}


def _summary(passed: "Passed", num_codes: int) -> dict[str, Any]:
    mse, copy_mse = float(np.mean(passed.mse)), float(np.mean(passed.copy_mse))
    improvement = 1.0 - mse / copy_mse if copy_mse else 0.0
    held_out = {"mse": mse, "copy_mse": copy_mse, "improvement": improvement, "held_out_pairs": len(passed.mse)}
    if passed.codes is None:
        return held_out
    usage = np.bincount(passed.codes.reshape(-1), minlength=num_codes) / passed.codes.size
    used = {"codes_used": int(np.sum(usage >= USED)), "num_codes": num_codes, "usage": usage.tolist()}
    return used | {"perplexity": float(metrics.perplexity(jnp.asarray(usage)))} | held_out


def _names(mixture: episodes_lib.Mixture) -> list[str]:
    """One a member; numbered where two datasets have the same."""
    names = [member.name for member in mixture.members]
    return [name if names.count(name) == 1 else f"{name}-{i}" for i, name in enumerate(names)]


def _slices(held: list["Held"]) -> list[slice]:
    ends = np.cumsum([len(part.frame) for part in held]).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def save(workdir: str | pathlib.Path, writer: metrics.Writer, step: int, quality: Mapping[str, Any]) -> None:
    """`summary.json`, `gallery.npz` and a line of held-out metrics."""
    if jax.process_index():
        return
    summary = quality["summary"]
    np.savez_compressed(pathlib.Path(workdir) / "gallery.npz", **quality["gallery"])
    shown = {k: summary[k] for k in ("codes_used", "perplexity", "mse", "copy_mse", "improvement") if k in summary}
    shown |= {k: summary[k]["mean"] for k in ("probe_r2", "z_probe_r2", "control_r2") if k in summary}
    writer.write(step, {"loss": summary["mse"], **shown}, split="val")
    metrics.summarise(workdir, summary)


@dataclasses.dataclass(frozen=True)
class Held:
    """Held-out pairs of one dataset, or of several.

    Attributes:
        pairs: (episode, step) of the first frames.
        frame: uint8[N, H, W, 3].
        following: uint8[N, H, W, 3], `gap` steps later.
        motion: float32[N, 2 or more], displacement of the effector in metres; None without one.
        gap: steps.
    """

    pairs: list[tuple[int, int]]
    frame: np.ndarray
    following: np.ndarray
    motion: np.ndarray | None
    gap: int

    @classmethod
    def sample(
        cls, episodes: episodes_lib.Episodes, seconds: float, num_pairs: int, image_size: int, seed: int = 0
    ) -> "Held":
        """Up to `num_pairs` of them, in stored order."""
        gap = episodes.steps_of(seconds)
        index = gaps.Steps(gap, gap).index(episodes)
        count = min(num_pairs, len(index))
        chosen = np.sort(np.random.default_rng(seed).choice(len(index), count, replace=False))
        pairs = [index[int(i)] for i in chosen]
        frame = np.stack([episodes.frame(e, t, image_size) for e, t in pairs])
        following = np.stack([episodes.frame(e, t + gap, image_size) for e, t in pairs])
        motion = None
        if "effector" in episodes.arrays:
            effector = episodes["effector"]
            motion = np.stack([np.subtract(*effector[e][[t + gap, t]]) for e, t in pairs])  # read once a pair
        return cls(pairs, frame, following, motion, gap)

    @classmethod
    def pooled(cls, held: list["Held"]) -> "Held":
        """All of them, one after the other, without their motion."""
        frames = (np.concatenate([getattr(part, name) for part in held]) for name in ("frame", "following"))
        return cls([pair for part in held for pair in part.pairs], *frames, None, held[0].gap)


@dataclasses.dataclass(frozen=True)
class Passed:
    """What a LAQ made of held-out pairs.

    Attributes:
        codes: int[N, L]; None of a continuous quantiser.
        z: float32[N, L, D], before quantisation.
        view: float16[N, h, w, C], reconstruction from the hard codes, in the space that the LAQ rebuilds.
        mse, copy_mse: float32[N], of the reconstruction and of copying the first frame, in that space.
        to_image: view -> uint8[N, H, W, 3].
    """

    codes: np.ndarray | None
    z: np.ndarray
    view: np.ndarray
    mse: np.ndarray
    copy_mse: np.ndarray
    to_image: Callable[[np.ndarray], np.ndarray]

    def rows(self, rows: slice) -> "Passed":
        codes = None if self.codes is None else self.codes[rows]
        parts = (a[rows] for a in (self.z, self.view, self.mse, self.copy_mse))
        return Passed(codes, *parts, self.to_image)


def run(
    model: laq.LatentActionQuantizer, state: training.TrainState, frame: np.ndarray, following: np.ndarray
) -> Passed:
    """Pairs uint8[N, H, W, 3] through the LAQ, without noise."""
    variables = {"params": state.params, **state.variables}

    @jax.jit
    def forward(variables: Any, a: jax.Array, b: jax.Array) -> tuple:
        out = model.apply(variables, a, b, train=False)
        view = model.apply(variables, out.reconstruction, method="in_range")
        before, after = (model.apply(variables, x, method="view") for x in (a, b))
        error, copied = (jnp.mean(jnp.square(x - after), axis=(1, 2, 3)) for x in (view, before))
        return out.latent.codes, out.latent.z, view.astype(jnp.float16), error, copied

    parts = []
    for a, b, kept in chunks(frame, following):
        found = sharding.fetched(forward(variables, a, b))
        parts.append([None if x is None else x[:kept] for x in found])
    joined = (None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True))
    codes, z, view, mse, copy_mse = joined
    return Passed(codes, z, view, mse, copy_mse, picture(view, frame.shape[1:3]))


def picture(view: np.ndarray, size: tuple[int, int]) -> Callable[[np.ndarray], np.ndarray]:
    """How to look at float[N, h, w, C]: as it is, or features by their three main directions, in colour."""
    if view.shape[-1] == 3:
        return to_uint8
    sample = view.reshape(-1, view.shape[-1]).astype(np.float32)
    sample = sample[:: max(1, len(sample) // 5000)]
    mean = sample.mean(axis=0)
    _, scale, directions = np.linalg.svd(sample - mean, full_matrices=False)
    spread = 4.0 * scale[:3] / np.sqrt(len(sample))

    def image(view: np.ndarray) -> np.ndarray:
        colours = to_uint8((np.asarray(view, np.float32) - mean) @ directions[:3].T / spread + 0.5)
        rows, columns = (np.arange(s) * n // s for s, n in zip(size, colours.shape[1:3], strict=True))
        return colours[:, rows][:, :, columns]

    return image


def chunks(*arrays: np.ndarray) -> Any:
    """Rows in blocks of CHUNK, the last one padded (so one compilation serves), with the rows kept."""
    for start in range(0, len(arrays[0]), CHUNK):
        part = [a[start : start + CHUNK] for a in arrays]
        kept = len(part[0])
        yield *(np.concatenate([p, np.repeat(p[-1:], CHUNK - kept, axis=0)]) for p in part), kept


def probe(held: "Held", passed: Passed, num_codes: int) -> dict[str, Any]:
    """R2 of linear probes to the displacement, fitted on even episodes and scored on odd ones.

    Beside the codes: z before quantisation, and a control that sees the first frame only (64 principal
    components of its 8x8 thumbnail). What that can guess is no evidence of codes carrying motion.
    """
    even = np.array([e % 2 == 0 for e, _ in held.pairs])
    flat = passed.z.reshape(len(even), -1)
    codes = flat if passed.codes is None else probes.one_hot(passed.codes, num_codes)
    thumbs = probes.frame_features(held.frame)
    sides = {"probe_r2": (codes[even], codes[~even]), "z_probe_r2": (flat[even], flat[~even])}
    sides["control_r2"] = probes.principal_components(thumbs[even], thumbs[~even])
    fit, score = held.motion[even], held.motion[~even]
    return {name: _positions(probes.linear_probe(x, fit, to, score)) for name, (x, to) in sides.items()}


def _positions(r2: np.ndarray) -> dict[str, float]:
    """Of the columns that are a place, two or three; what comes after them is turning and gripping."""
    return dict(zip("xyz", map(float, r2), strict=False)) | {"mean": float(np.mean(r2[:3]))}


def strips(frame: np.ndarray, following: np.ndarray, passed: Passed) -> dict[str, np.ndarray]:
    """Eight held-out examples, evenly spread."""
    rows = np.linspace(0, len(frame) - 1, 8).astype(int)
    shown = {"frame": frame[rows], "next_frame": following[rows]}
    shown |= {} if passed.codes is None else {"codes": passed.codes[rows]}
    return shown | {"reconstruction": passed.to_image(passed.view[rows])}


def code_motion(codes: np.ndarray, motion: np.ndarray, num_codes: int) -> dict[str, np.ndarray]:
    """Mean and spread of the displacement of the pairs that contain each code; NaN if there are none."""
    mean, std = np.full((num_codes, 2), np.nan), np.full((num_codes, 2), np.nan)
    for code in range(num_codes):
        rows = motion[np.any(codes == code, axis=1), :2]
        if len(rows):
            mean[code], std[code] = rows.mean(0), rows.std(0)
    return {"code_motion": mean.astype(np.float32), "code_motion_std": std.astype(np.float32)}


def code_examples(
    frame: np.ndarray, following: np.ndarray, codes: np.ndarray, num_codes: int, count: int = 4
) -> dict[str, np.ndarray]:
    """Up to `count` pairs that contain each code (zeros where there are fewer)."""
    first = np.zeros((num_codes, count, *frame.shape[1:]), np.uint8)
    then, counts = first.copy(), np.zeros(num_codes, np.int64)
    for code in range(num_codes):
        rows = np.flatnonzero(np.any(codes == code, axis=1))
        rows = rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]
        counts[code] = len(rows)
        first[code, : len(rows)], then[code, : len(rows)] = frame[rows], following[rows]
    return {
        "code_examples_frame": first, "code_examples_next": then, "code_examples_count": counts
    }


def swaps(
    model: Any, state: training.TrainState, frame: np.ndarray, to_image: Callable, count: int = 4
) -> dict[str, np.ndarray]:
    """Every code (at all positions) applied to a few first frames."""
    variables = {"params": state.params, **state.variables}
    decode = jax.jit(lambda v, f, c: model.apply(v, f, c, method="decode"))
    firsts = frame[np.linspace(0, len(frame) - 1, count + 2).astype(int)[1:-1]]
    columns = [
        to_image(sharding.fetched(decode(variables, firsts, np.full((count, model.num_tokens), code, np.int32))))
        for code in range(model.num_codes)
    ]
    return {"swap_first": firsts, "swap_decoded": np.stack(columns, axis=1)}


def to_uint8(image: jax.Array) -> np.ndarray:
    """Floats on the [0, 1] scale -> uint8."""
    return np.asarray(jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0)).astype(np.uint8)
