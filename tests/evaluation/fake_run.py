"""A synthetic run folder: discs that move, curves that fall, rates that look like rates."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from lapa_jax.evaluation import gifs

SIZE, NUM_CODES = 64, 8
ANGLES = np.arange(NUM_CODES) * 2 * np.pi / NUM_CODES
MOTION = 0.05 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)  # metres
COLOURS = ((214, 69, 65), (46, 134, 193), (39, 174, 96), (241, 196, 15))


def scene(rng: np.random.Generator, effector: np.ndarray, layout_seed: int) -> np.ndarray:
    """uint8[64, 64, 3]: coloured discs laid out by a seed and a dark effector at (x, y) metres."""
    layout = np.random.default_rng(layout_seed)
    image = np.full((SIZE, SIZE, 3), (196, 188, 176), np.float64)
    for colour in COLOURS:
        _disc(image, layout.uniform(-0.18, 0.18, 2), 0.028, colour)
    _disc(image, effector, 0.024, (40, 42, 48))
    return np.clip(image + rng.normal(0, 2, image.shape), 0, 255).astype(np.uint8)


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, colour) -> None:
    rows, columns = np.mgrid[:SIZE, :SIZE]
    x, y = columns / SIZE * 0.5 - 0.25, 0.25 - rows / SIZE * 0.5
    image[np.hypot(x - centre[0], y - centre[1]) < radius] = colour


def gallery(num_pairs: int = 6, examples: int = 4, scenes: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)

    def pair(code, seed):
        start = np.random.default_rng(seed + 99).uniform(-0.12, 0.12, 2)
        return scene(rng, start, seed), scene(rng, start + MOTION[code], seed)

    pairs = [pair(i % NUM_CODES, i) for i in range(num_pairs)]
    by_code = [[pair(k, 10 * k + i) for i in range(examples)] for k in range(NUM_CODES)]
    swaps = [[pair(k, 500 + s) for k in range(NUM_CODES)] for s in range(scenes)]
    motion, count = MOTION + rng.normal(0, 0.004, MOTION.shape), np.full(NUM_CODES, examples)
    motion[7], count[7] = np.nan, 0  # a code that nobody uses
    frame, after = (np.stack([p[i] for p in pairs]) for i in range(2))
    blurred = np.round(0.8 * after + 0.2 * frame).astype(np.uint8)
    return {
        "frame": frame, "next_frame": after, "reconstruction": blurred,
        "codes": np.arange(num_pairs)[:, None] % NUM_CODES,
        "code_motion": motion.astype(np.float32),
        "code_motion_std": np.full((NUM_CODES, 2), 0.012, np.float32),
        "code_examples_frame": np.array([[p[0] for p in row] for row in by_code]),
        "code_examples_next": np.array([[p[1] for p in row] for row in by_code]),
        "code_examples_count": count,
        "swap_first": np.array([row[0][0] for row in swaps]),
        "swap_decoded": np.array([[p[1] for p in row] for row in swaps]),
    }  # fmt: skip


def summaries() -> dict[str, dict]:
    return {
        "laq": {
            "codes_used": 7, "num_codes": NUM_CODES, "perplexity": 6.4, "mse": 0.00081,
            "usage": [0.21, 0.13, 0.16, 0.09, 0.15, 0.12, 0.14, 0.0],
            "copy_mse": 0.0016, "improvement": 0.49, "gap": 4, "gap_seconds": 0.4, "held_out_pairs": 1800,
            "probe_r2": {"x": 0.74, "y": 0.69, "mean": 0.715},
            "control_r2": {"x": 0.11, "y": 0.08, "mean": 0.095},
        },
        "vlm": {"code_accuracy": 0.58, "majority_accuracy": 0.21, "blank_accuracy": 0.27,
                "held_out_steps": 1800},
        "finetune": {"val_mse": 0.112, "episodes": 40, "updates": 1500},
        "scratch": {"val_mse": 0.164, "episodes": 40, "updates": 1500},
    }  # fmt: skip


def rollouts() -> dict:
    psnr = {"imagined": [27.1, 24.0], "true codes": [28.2, 26.5], "first_frame": [24.9, 22.3]}
    return {"psnr": psnr, "code_agreement": [0.5, 0.4], "videos": [2, 2]}


def results() -> dict:
    solved = {"lapa": (17, 14, 9), "scratch": (12, 6, 3), "random": (1, 0, 0)}
    solved["expert"] = (20, 20, 19)
    families = ("reach", "push_to_zone", "separate")
    return {
        "episodes": 60,
        "split": "heldout",
        "policies": {
            policy: {
                "families": {
                    f: {"successes": s, "trials": 20} for f, s in zip(families, wins, strict=True)
                },
                "all": {"successes": sum(wins), "trials": 60},
            }
            for policy, wins in solved.items()
        },
        "gifs": {
            name: {"file": f"{name}.gif", "instruction": "push the red disc", "policy": "lapa"}
            for name in ("success", "failure")
        },
    }


def metrics(stage: str, start: float, end: float, steps: int = 1500) -> list[dict]:
    rng = np.random.default_rng(len(stage))
    lines = []
    for step in range(0, steps + 1, 10):
        loss = end + (start - end) * np.exp(-step / 250)
        noisy = loss * np.exp(rng.normal(0, 0.12))
        lines.append({"step": step, "time": step / 9, "split": "train", "loss": noisy})
        if step % 150 == 0:
            lines.append({"step": step, "time": step / 9, "split": "val", "loss": loss * 1.1})
    return lines


def run_record() -> dict:
    seconds = {"data": 61.0, "laq": 322.4, "label": 9.1, "vlm": 240.0, "finetune": 118.0,
               "scratch": 117.0, "evaluate": 141.5}  # fmt: skip
    return {
        "command": "make demo", "size": "small", "machine": "2 CPU cores, 8 GiB",
        "started": "2026-01-05T09:00:00", "finished": "2026-01-05T09:16:49",
        "versions": {"python": "3.11", "jax": "0.10.2", "flax": "0.12.8"},
        "stages": [{"name": name, "seconds": s} for name, s in seconds.items()],
    }  # fmt: skip


def write(root: Path, stages: tuple[str, ...] = ("laq", "vlm", "finetune", "scratch")) -> Path:
    """Writes the folder with these stages, and the evaluation if all four are there."""
    losses = {"laq": (0.04, 8e-4), "vlm": (2.1, 0.9), "finetune": (0.9, 0.1), "scratch": (1, 0.15)}
    root.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        (root / stage).mkdir(exist_ok=True)
        _json(root / stage / "summary.json", summaries()[stage])
        _json(root / stage / "config.json", {"seed": 0, "model": {"width": 128, "name": stage}})
        lines = "\n".join(json.dumps(m) for m in metrics(stage, *losses[stage]))
        (root / stage / "metrics.jsonl").write_text(lines + "\n")
    if "laq" in stages:
        np.savez_compressed(root / "laq" / "gallery.npz", **gallery())
    if len(stages) == 4:
        _json(root / "run.json", run_record())
        _evaluation(root / "evaluation")
        (root / "rollouts").mkdir(exist_ok=True)
        _json(root / "rollouts" / "rollouts.json", rollouts())
        Image.fromarray(scene(np.random.default_rng(2), np.zeros(2), 3)).save(root / "rollouts" / "strips.png")
    return root


def _evaluation(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    _json(folder / "results.json", results())
    rng = np.random.default_rng(1)
    path = np.linspace(-0.15, 0.15, 24)
    for name, height in (("success", 0.05), ("failure", -0.1)):
        frames = np.stack([scene(rng, np.array([x, height]), 7) for x in path])
        gifs.write_gif(folder / f"{name}.gif", frames, caption=name)


def _json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value))
