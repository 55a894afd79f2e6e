"""The stages of the demo as command lines."""

import pathlib

import demo_worlds


def commands(root: pathlib.Path, size: str, seed: int, image: str, env: str) -> dict[str, list[str]]:
    """Name of each stage -> its command line without the interpreter, in order.

    Args:
        root: the run's folder.
        image: how the VLM sees, `stem`, `tokens` or `features`.
        env: a name in `demo_worlds.WORLDS`.
    """
    world = demo_worlds.WORLDS[env]
    build = [f"--{name}_episodes={count}" for name, count in world.episodes[size].items()]
    dataset = f"--config.data.directory={root / 'dataset'}"
    vlm, seeded = f"--config.vlm={root / 'vlm'}", f"--config.seed={seed}"

    def program(name: str, workdir: str, *overrides: str) -> list[str]:
        config = f"--config=experiments/configs/{name}.py:{size}"
        changes = world.flags(workdir, size)
        return [f"experiments/{name}.py", config, f"--workdir={root / workdir}", *overrides, *changes]

    frozen = image != "stem"
    tokenizer = {"tokenizer": program("train_tokenizer", "tokenizer", dataset, seeded)} if frozen else {}
    encoder = [f"--config.encoder.path={root / 'tokenizer'}"] if frozen else []
    see = [f"--config.model.image={image}", *encoder]
    return {
        "dataset": [
            "data/simulated/build.py", f"--env={env}", f"--out={root / 'dataset'}", f"--seed={seed}", *build
        ],
        "laq": program("train_laq", "laq", dataset, seeded),
        "latents": program("label_latents", "latents", f"--config.laq={root / 'laq'}"),
        **tokenizer,
        "vlm": program("pretrain_vlm", "vlm", dataset, seeded, f"--config.data.latents={root / 'latents'}", *see),
        "rollouts": program(
            "rollout_latents", "rollouts", f"--config.vlm={root / 'vlm'}", f"--config.laq={root / 'laq'}"
        ),
        "finetune": program("finetune", "finetune", dataset, seeded, vlm),
        "scratch": program("finetune", "scratch", dataset, seeded, vlm, "--config.scratch=True"),
        "evaluation": program(
            "evaluate", "evaluation",
            f"--config.policies.lapa={root / 'finetune'}", f"--config.policies.scratch={root / 'scratch'}",
        ),
    }
