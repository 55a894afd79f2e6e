"""The four named streams of batches; see `streams` for their order and their state."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import augment as augment_lib
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import gaps, prompts, transforms
from lapa_jax.data import latents as latents_lib
from lapa_jax.data import statistics as statistics_lib
from lapa_jax.data.streams import Batch, Order, Part, Stream, hashed

_OFF = augment_lib.Augment()


def frames(
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    augment: augment_lib.Augment = _OFF,
    **order: Any,
) -> Stream:
    """Single frames, all steps of all episodes: frame uint8[B, H, W, 3]. `order` as in `frame_pairs`."""

    def part(members: episodes_lib.Episodes, weight: float) -> Part:
        def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
            change = augment.draw(rng)
            return {"frame": change(members.frame(*at, image_size))}

        name = _name("frames", members, image_size, augment)
        return Part(transforms.StepIndex(members.lengths), example, name, weight)

    return _stream(part, episodes, Order(batch_size, seed, **order))


def frame_pairs(
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    gap: gaps.Gap,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    augment: augment_lib.Augment = _OFF,
    tokenizer: prompts.Tokenizer | None = None,
    statistics: statistics_lib.Statistics | None = None,
    **order: Any,
) -> Stream:
    """Pairs of frames `gap` apart: frame, next_frame uint8[B, H, W, 3].

    Both frames of a pair are augmented alike. With a tokenizer there is the instruction too, text int32[B, L].
    With the statistics of "action" (robot view only) there is action float32[B, A], the mean of the normalised
    actions from the first frame to the second. `order` takes the other fields of `Order`. Raises UserError
    when no episode is longer than the gap.
    """

    def part(members: episodes_lib.Episodes, weight: float) -> Part:
        steps = gap.steps(members)
        text = None if tokenizer is None else _encode_all(members, tokenizer)
        actions = None if statistics is None else members["action"]

        def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
            episode, t = at
            later = steps.later(t, int(members.lengths[episode]), rng)
            change = augment.draw(rng)
            pair = {
                "frame": change(members.frame(episode, t, image_size)),
                "next_frame": change(members.frame(episode, later, image_size)),
            }
            if text is not None:
                pair["text"] = text(episode)
            if actions is not None:
                pair["action"] = statistics.normalise(actions[episode][t:later]).mean(axis=0)
            return pair

        more = [key for key, one in (("text", text), ("action", actions)) if one is not None]
        name = _name("pairs", members, steps, image_size, augment, *more)
        return Part(steps.index(members), example, name, weight)

    return _stream(part, episodes, Order(batch_size, seed, **order))


def latent_stream(
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    latents: latents_lib.Latents | Sequence[latents_lib.Latents],
    tokenizer: prompts.Tokenizer,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    blank_instruction_rate: float = 0.0,
    augment: augment_lib.Augment = _OFF,
    **order: Any,
) -> Stream:
    """Frames with their latent action: image uint8[B, H, W, 3], text int32[B, L],
    latents int32[B, N].

    A mixture takes one `latents` a member, all of the same code length. Each example has its instruction
    replaced by the empty one with probability `blank_instruction_rate`. `order` takes the other fields of
    `Order`.
    """
    if not 0 <= blank_instruction_rate <= 1:
        raise errors.UserError(f"blank_instruction_rate {blank_instruction_rate} is not a probability; use 0..1")
    blank, labels = tokenizer.encode_blank(), _one_each(latents, episodes, "latents")
    if len({(found.code_length, found.num_codes) for found in labels}) > 1:
        raise errors.UserError(
            "the latent actions of the datasets are of different quantizers; label them with one"
        )

    def part(members: episodes_lib.Episodes, weight: float, codes: latents_lib.Latents) -> Part:
        text = _encode_all(members, tokenizer)

        def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
            episode, t = at
            encoded = blank if rng.random() < blank_instruction_rate else text(episode)
            change = augment.draw(rng)
            image = change(members.frame(episode, t, image_size))
            return {"image": image, "text": encoded, "latents": codes.codes(episode)[t]}

        index = gaps.Steps(codes.gap, codes.gap).index(members)
        name = _name("latents", members, codes.gap, image_size, blank_instruction_rate, augment)
        return Part(index, example, name, weight)

    return _stream(part, episodes, Order(batch_size, seed, **order), labels)


def action_stream(
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    tokenizer: prompts.Tokenizer,
    statistics: statistics_lib.Statistics | Sequence[statistics_lib.Statistics],
    horizon: int,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    window: int = 1,
    augment: augment_lib.Augment = _OFF,
    **order: Any,
) -> Stream:
    """Frames with the actions that follow: image uint8[B, H, W, 3], text int32[B, L],
    actions float32[B, horizon, A] normalised, action_mask bool[B, horizon].

    Past the end of an episode its last action repeats and the mask is False. With window > 1 the image is
    uint8[B, window, H, W, 3], the last one now, with window_mask bool[B, window]; before the first step
    that one repeats and the mask is False. A mixture takes one `statistics` a member. `order` takes the
    other fields of `Order`. Raises UserError for the video view, which has no actions.
    """
    if horizon < 1:
        raise errors.UserError(f"horizon {horizon} holds no action; use 1 or more")
    if window < 1:
        raise errors.UserError(f"window {window} holds no frame; use 1 or more")

    def part(members: episodes_lib.Episodes, weight: float, stats: statistics_lib.Statistics) -> Part:
        actions, text = members["action"], _encode_all(members, tokenizer)

        def example(at: tuple[int, int], rng: np.random.Generator) -> Batch:
            episode, t = at
            chunk, mask = transforms.chunk(actions[episode], t, horizon)
            steps, seen = transforms.window(t, window)
            change = augment.draw(rng)
            frames = [change(members.frame(episode, int(step), image_size)) for step in steps]
            past = {"image": np.stack(frames), "window_mask": seen} if window > 1 else {"image": frames[0]}
            return {**past, "text": text(episode), "actions": stats.normalise(chunk), "action_mask": mask}

        name = _name("actions", members, horizon, image_size, window, augment)
        return Part(transforms.StepIndex(members.lengths), example, name, weight)

    return _stream(part, episodes, Order(batch_size, seed, **order), _one_each(statistics, episodes, "statistics"))


def _stream(
    part: Callable[..., Part], episodes: episodes_lib.Episodes | episodes_lib.Mixture, order: Order, *more: Sequence
) -> Stream:
    mixture = episodes_lib.as_mixture(episodes)
    rows = zip(mixture.members, mixture.weights, *more, strict=True)
    return Stream([part(*row) for row in rows], order, mixture.balance)


def _one_each(found: Any, episodes: episodes_lib.Episodes | episodes_lib.Mixture, what: str) -> Sequence[Any]:
    found = list(found) if isinstance(found, Sequence) else [found]
    members = len(episodes_lib.as_mixture(episodes).members)
    if len(found) != members:
        raise errors.UserError(f"{len(found)} {what} for {members} datasets; give one for each")
    return found


def _encode_all(episodes: episodes_lib.Episodes, tokenizer: prompts.Tokenizer) -> Callable[[int], np.ndarray]:
    """episode -> its instruction as tokens; each text is encoded once."""
    if not any(episodes.instructions):
        raise errors.UserError(
            f"{episodes.name} has no instruction in any episode; name its key in the table (docs/datasets.md)"
        )
    encoded = {text: tokenizer.encode(text) for text in set(episodes.instructions)}
    return lambda episode: encoded[episodes.instructions[episode]]


def _name(kind: str, episodes: episodes_lib.Episodes, *choices: Any) -> str:
    return hashed(kind, (kind, episodes.fingerprint, choices))
