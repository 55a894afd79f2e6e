"""How good a LAQ is, on held-out episodes: codes in use, reconstruction, what the codes know of motion."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import metrics, training
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import gaps
from lapa_jax.evaluation import probes
from lapa_jax.models import laq

USED = 0.02
"""A code counts as used when it labels at least this fraction of the held-out pairs."""
CHUNK = 100
"""Pairs per call of the model."""


def init_fn(model: laq.LatentActionQuantizer, image_size: int) -> Callable[[jax.Array], Any]:
    """key -> initial flax variables of the LAQ."""
    frame = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return lambda key: model.init({"params": key, "noise": key}, frame, frame, train=False)


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
    codes, reconstruction = run(model, state, pooled.frame, pooled.following)
    summary = _summary(pooled, codes, reconstruction, model.num_codes)
    summary |= {"gap": held[0].gap, "gap_seconds": data["gap"]}
    gallery = strips(pooled.frame, pooled.following, reconstruction, codes)
    each = {}
    for name, part, rows in zip(_names(robot), held, _slices(held), strict=True):
        each[name] = _summary(part, codes[rows], reconstruction[rows], model.num_codes)
        if part.motion is not None:
            each[name] |= probe(part.pairs, part.frame, codes[rows], part.motion, model.num_codes)
            if "code_motion" not in gallery:  # of the first dataset that has an effector
                gallery |= code_motion(codes[rows], part.motion, model.num_codes)
                summary |= {key: each[name][key] for key in ("probe_r2", "control_r2")}
    summary |= {"datasets": each} if len(each) > 1 else {}
    gallery |= code_examples(pooled.frame, pooled.following, codes, model.num_codes)
    gallery |= swaps(model, state, pooled.frame)
    return {"summary": summary, "gallery": gallery}


def _summary(held: "Held", codes: np.ndarray, reconstruction: np.ndarray, num_codes: int) -> dict[str, Any]:
    usage = np.bincount(codes.reshape(-1), minlength=num_codes) / codes.size
    copy_mse = mean_square(held.frame, held.following)
    mse = float(np.mean([mean_square(r, f) for r, f in zip(reconstruction, held.following, strict=True)]))
    return {
        "codes_used": int(np.sum(usage >= USED)), "num_codes": num_codes, "usage": usage.tolist(),
        "perplexity": float(metrics.perplexity(jnp.asarray(usage))), "mse": mse, "copy_mse": copy_mse,
        "improvement": 1.0 - mse / copy_mse if copy_mse else 0.0, "held_out_pairs": len(held.frame),
    }


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
    shown = {k: summary[k] for k in ("codes_used", "perplexity", "mse", "copy_mse", "improvement")}
    if "probe_r2" in summary:
        shown |= {"probe_r2": summary["probe_r2"]["mean"], "control_r2": summary["control_r2"]["mean"]}
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


def run(
    model: laq.LatentActionQuantizer, state: training.TrainState, frame: np.ndarray, following: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Codes int[N, L] and hard-code reconstructions uint8[N, H, W, 3] of frame pairs."""
    variables = {"params": state.params, **state.variables}
    forward = jax.jit(lambda v, a, b: model.apply(v, a, b, train=False))
    codes, images = [], []
    for a, b, kept in chunks(frame, following):
        out = forward(variables, a, b)
        codes.append(np.asarray(out.codes)[:kept])
        images.append(to_uint8(out.reconstruction)[:kept])
    return np.concatenate(codes), np.concatenate(images)


def chunks(*arrays: np.ndarray) -> Any:
    """Rows in blocks of CHUNK, the last one padded (so one compilation serves), with the rows kept."""
    for start in range(0, len(arrays[0]), CHUNK):
        part = [a[start : start + CHUNK] for a in arrays]
        kept = len(part[0])
        yield *(np.concatenate([p, np.repeat(p[-1:], CHUNK - kept, axis=0)]) for p in part), kept


def probe(
    pairs: list[tuple[int, int]], frame: np.ndarray, codes: np.ndarray, motion: np.ndarray, num_codes: int
) -> dict[str, Any]:
    """R2 of linear probes to the displacement, fitted on even episodes and scored on odd ones.

    The control sees the first frame only (64 principal components of its 8x8 thumbnail): what it can
    guess is no evidence of codes carrying motion.
    """
    even = np.array([e % 2 == 0 for e, _ in pairs])
    codes, thumbs = probes.one_hot(codes, num_codes), probes.frame_features(frame)
    thumbs_even, thumbs_odd = probes.principal_components(thumbs[even], thumbs[~even])
    r2 = probes.linear_probe(codes[even], motion[even], codes[~even], motion[~even])
    control = probes.linear_probe(thumbs_even, motion[even], thumbs_odd, motion[~even])
    return {"probe_r2": _xy(r2), "control_r2": _xy(control)}


def _xy(r2: np.ndarray) -> dict[str, float]:
    return {"x": float(r2[0]), "y": float(r2[1]), "mean": float(np.mean(r2[:2]))}


def strips(frame: np.ndarray, following: np.ndarray, rebuilt: np.ndarray, codes: np.ndarray) -> dict:
    """Eight held-out examples, evenly spread."""
    rows = np.linspace(0, len(frame) - 1, 8).astype(int)
    return {
        "frame": frame[rows], "next_frame": following[rows], "reconstruction": rebuilt[rows],
        "codes": codes[rows],
    }


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


def swaps(model: Any, state: training.TrainState, frame: np.ndarray, count: int = 4) -> dict[str, np.ndarray]:
    """Every code (at all positions) applied to a few first frames."""
    variables = {"params": state.params, **state.variables}
    decode = jax.jit(lambda v, f, c: model.apply(v, f, c, method="decode"))
    firsts = frame[np.linspace(0, len(frame) - 1, count + 2).astype(int)[1:-1]]
    columns = [
        to_uint8(decode(variables, firsts, np.full((count, model.code_length), code, np.int32)))
        for code in range(model.num_codes)
    ]
    return {"swap_first": firsts, "swap_decoded": np.stack(columns, axis=1)}


def mean_square(a: np.ndarray, b: np.ndarray) -> float:
    """Mean squared difference of uint8 images, on the [0, 1] scale."""
    return float(np.mean(np.square((a.astype(np.float32) - b) / 255.0)))


def to_uint8(image: jax.Array) -> np.ndarray:
    """Floats on the [0, 1] scale -> uint8."""
    return np.asarray(jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0)).astype(np.uint8)
