"""The neural simulator: from one held-out frame and its instruction, latent actions and the frames they lead to.

    python experiments/rollout_latents.py --config=experiments/configs/rollout_latents.py:demo \
        --workdir=runs/demo/rollouts --config.vlm=runs/demo/vlm --config.laq=runs/demo/laq

Writes strips.png (what happened, what was imagined, and the true codes decoded), a film of each, and rollouts.json.
"""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import launch
import numpy as np

from lapa_jax import checkpoints, errors, generate, latent_rollout, sharding, trained
from lapa_jax.data import episodes, sources
from lapa_jax.evaluation import gifs, rollout_quality

CONFIG, WORKDIR = launch.define("rollout_latents")


@dataclasses.dataclass(frozen=True)
class Videos:
    """Some videos, a frame a gap: float32[S + 1, B, h, w, 3] in [0, 1], the last repeated where one is shorter.

    Attributes:
        lengths: int[B], steps that each has.
    """

    frames: np.ndarray
    instructions: list[str]
    lengths: np.ndarray

    @classmethod
    def of(cls, mixture: episodes.Mixture, gap: float, steps: int, count: int, image_size: int) -> "Videos":
        """About `count`, spread over the datasets and their episodes, each from its first step on.

        Raises:
            UserError: no episode is longer than the gap.
        """
        rows = []
        for member in mixture.members:
            stride = member.steps_of(gap)
            long = [e for e, length in enumerate(member.lengths) if length > stride]
            wanted = -(-count // len(mixture.members))
            for e in np.array(long, int)[np.linspace(0, len(long) - 1, min(wanted, len(long))).astype(int)]:
                last = min(steps, (int(member.lengths[e]) - 1) // stride)
                at = [min(k, last) * stride for k in range(steps + 1)]
                rows.append(([member.frame(int(e), t, image_size) for t in at], member.instruction(int(e)), last))
        if not rows:
            raise errors.UserError(f"no episode is longer than the gap of {gap} s: give another split or directory")
        frames, instructions, lengths = zip(*rows, strict=True)
        pixels = np.stack([np.stack(one) for one in frames], axis=1)
        return cls(pixels.astype(np.float32) / 255.0, list(instructions), np.array(lengths))


def save(folder: pathlib.Path, videos: Videos, found: dict[str, np.ndarray], notes: dict[str, np.ndarray]) -> None:
    """Pictures and films of each video."""
    strips = []
    for b, (words, length) in enumerate(zip(videos.instructions, videos.lengths, strict=True)):
        first = videos.frames[:1, b]
        rows = {"what happened": videos.frames[: length + 1, b]}
        rows |= {name: np.concatenate([first, frames[:, b]]) for name, frames in found.items()}
        texts = {name: [" ".join(map(str, code)) for code in codes[:, b]] for name, codes in notes.items()}
        strips.append(rollout_quality.strip(rows, words, texts, scale=max(1, 96 // first.shape[1])))
        film = np.round(np.clip(rows["imagined"], 0, 1) * 255).astype(np.uint8)
        gifs.write_gif(folder / f"imagined_{b:03d}.gif", film, words, max(1, 192 // film.shape[1]), fps=2)
    print(f"pictures: {rollout_quality.save_strips(folder, strips).resolve()}")


def main(_: Any) -> None:
    config = CONFIG.value
    for key, what in (("vlm", "pretrain_vlm"), ("laq", "train_laq")):
        if config[key] is None:
            raise errors.UserError(f"which {key.upper()}? give --config.{key}=FOLDER of a {what} run")
    launch.start(config, share="nothing")
    mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
    with jax.set_mesh(mesh):
        planner, state = trained.load_planner(config.vlm, mesh)  # 1 who picks codes, and who paints
        planner, params = planner.layers_apart(state.params)
        quantizer, painter, run = trained.load_laq(config.laq, mesh)
        sampling = generate.Sampling(config.temperature, top_p=config.top_p)
        simulator = latent_rollout.Simulator(planner, quantizer, sampling)
        checkpoints.claim(WORKDIR.value, config.to_dict())
        data = run["data"] | {"directory": config.directory or run["data"]["directory"]}
        mixture = sources.open_mixture(data, config.split, "video")  # 2 where to begin
        videos = Videos.of(mixture, data["gap"], config.steps, config.videos, data["image_size"])

        variables = {
            "planner": {"params": params, **state.variables},
            "laq": {"params": painter.params, **painter.variables},
        }
        keys = jax.random.split(jax.random.key(config.seed), config.steps)
        prompt = planner.prompts(videos.instructions)
        codes, imagined = simulator.imagine(variables, prompt, videos.frames[0], keys)  # 3 what would happen
        true_codes = simulator.label(variables, videos.frames)
        replayed = simulator.replay(variables, videos.frames[0], true_codes)
        found = {"imagined": np.asarray(imagined), "true codes": np.asarray(replayed)}
        codes, true_codes = np.asarray(codes), np.asarray(true_codes)
    summary = rollout_quality.summarise(videos.frames, found, videos.lengths, codes, true_codes)  # 4 and did it
    folder = pathlib.Path(WORKDIR.value)
    save(folder, videos, found, {"imagined": codes, "true codes": true_codes})
    about = {"gap": data["gap"], "instructions": videos.instructions, "codes": codes.tolist()}
    (folder / "rollouts.json").write_text(json.dumps(summary | about, indent=1) + "\n")
    for name, values in summary["psnr"].items():
        print(f"[rollouts] PSNR {name}: {' '.join(f'{value:.1f}' for value in values)} dB", flush=True)


if __name__ == "__main__":
    launch.run(main)
