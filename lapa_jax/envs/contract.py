"""Whether an environment keeps what docs/environments.md asks of one.

    python -m lapa_jax.envs.contract NAME [--args '{"families": ["reach"]}']

NAME is one of `lapa_jax.envs`, or the module of your own. Each line that it prints is one thing to mend.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from lapa_jax import envs
from lapa_jax.errors import UserError

STEPS = 8  # of random actions, in episodes that are compared
INFO = {"family": str, "success": bool, "instruction": str}


def problems(name: str, seeds: Sequence[int] = (0, 1, 2), **kwargs: Any) -> list[str]:
    """What is wrong with environment `name`, a sentence each; nothing: none.

    Args:
        seeds: of the episodes that are played.
        kwargs: of its `make`.

    Raises:
        UserError: it cannot be made.
    """
    one, other = envs.make(name, **kwargs), envs.make(name, **kwargs)
    try:
        found = list(_declarations(one))
        found += _episodes(name, one, seeds) or _repeats(one, other, seeds)
    finally:
        one.close()
        other.close()
    return list(dict.fromkeys(found))


def _declarations(env: Any) -> Iterator[str]:
    space = env.action_space
    if len(space.shape) != 1 or not np.isfinite([space.low, space.high]).all():
        yield f"action_space {space} is no Box of one axis with finite limits"
    described = getattr(env, "action_space_description", {})
    if len(described.get("names", ())) != space.shape[0] or not described.get("convention"):
        yield f"action_space_description has no names for {space.shape[0]} numbers and a convention: {described}"
    if not env.metadata.get("render_fps"):
        yield "metadata has no render_fps, the steps a second"
    families = getattr(env, "families", ())
    if not families or not all(isinstance(family, str) for family in families):
        yield f"families {families!r} are no names of tasks"


def _episodes(name: str, env: Any, seeds: Sequence[int]) -> list[str]:
    """Problems met while the expert plays, or random actions where there is none."""
    try:
        expert = envs.expert(name)
    except UserError:
        expert = None
    found, successes = [], 0
    for seed in seeds:
        rng = np.random.default_rng(seed)
        observation, info = env.reset(seed=seed)
        found += [*_shown(env, observation), *_told(env, info)]
        ended, steps = False, 0
        while not ended and not found and (expert is not None or steps < STEPS):
            action = _drawn(env, rng) if expert is None else expert.action(env, rng)
            observation, reward, terminated, truncated, info = env.step(action)
            found += [*_shown(env, observation), *_told(env, info)]
            if bool(terminated) != bool(info.get("success")) or (reward > 0) != bool(terminated):
                found.append("an episode ends, and is rewarded, when it succeeds and only then")
            ended, steps = terminated or truncated, steps + 1
        successes += bool(info.get("success"))
    if not found and expert is not None and 2 * successes < len(seeds):
        found.append(f"the expert succeeds in {successes} of {len(seeds)} episodes")
    return found


def _shown(env: Any, observation: dict[str, Any]) -> Iterator[str]:
    if not env.observation_space.contains(observation):
        shown = {key: getattr(value, "shape", value) for key, value in observation.items()}
        yield f"observation_space does not contain what is observed: {shown}"
    image = np.asarray(observation.get("image"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        yield f"image is {image.dtype}{list(image.shape)}, not uint8[H, W, 3]"
    if not isinstance(observation.get("instruction"), str) or not observation["instruction"]:
        yield "instruction is no text"
    proprio = observation.get("proprio", np.zeros(1, np.float32))
    if proprio.dtype != np.float32 or proprio.ndim != 1:
        yield f"proprio is {proprio.dtype}{list(proprio.shape)}, not float32[P]"


def _told(env: Any, info: dict[str, Any]) -> Iterator[str]:
    for key, kind in INFO.items():
        if not isinstance(info.get(key), kind):
            yield f"info has no {key} of type {kind.__name__}"
    if info.get("family") not in env.families:
        yield f"info's family {info.get('family')!r} is none of its families"


def _repeats(one: Any, other: Any, seeds: Sequence[int]) -> list[str]:
    """Problems of seeds: the same episode in another instance, whatever it played before; others differ."""
    first = [played(one, seed) for seed in seeds]
    again = [played(other, seed) for seed in reversed(seeds)][::-1]
    found = [f"seed {seed} gives another episode in another instance, or after another one"
             for seed, a, b in zip(seeds, first, again, strict=True) if a != b]  # fmt: skip
    if len(set(first)) < len(set(seeds)):
        found.append("different seeds give the same episode")
    try:
        one.step(np.full(one.action_space.shape, np.nan))
        found.append("an action that is not finite is carried out")
    except UserError:
        pass
    return found


def played(env: Any, seed: int) -> bytes:
    """All that is seen under random actions of that seed."""
    rng = np.random.default_rng(seed)
    observation, ended, seen = env.reset(seed=seed)[0], False, b""
    for _ in range(STEPS):
        parts = (observation[key] for key in sorted(observation))
        seen += b"".join(part.encode() if isinstance(part, str) else np.asarray(part).tobytes() for part in parts)
        if ended:
            break
        observation, _, terminated, truncated, _ = env.step(_drawn(env, rng))
        ended = terminated or truncated
    return seen


def _drawn(env: Any, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, 1 where something is wrong, or 2 where the environment cannot be made."""
    parser = argparse.ArgumentParser("python -m lapa_jax.envs.contract", description=__doc__.splitlines()[0])
    parser.add_argument("name")
    parser.add_argument("--args", type=json.loads, default={}, help="of its make, as JSON")
    options = parser.parse_args(arguments)
    try:
        found = problems(options.name, **options.args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(found) or f"{options.name}: nothing is wrong")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
