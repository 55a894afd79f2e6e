"""The four named streams of batches; see `streams` for their order and their state."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lapa_jax import errors
from lapa_jax.data import (
    action_examples,
    gaps,
    latent_examples,
    latent_rows,
    layouts,
    packed_stream,
    prompts,
    transforms,
)
from lapa_jax.data import augment as augment_lib
from lapa_jax.data import encoded as encoded_lib
from lapa_jax.data import episodes as episodes_lib
from lapa_jax.data import latents as latents_lib
from lapa_jax.data import statistics as statistics_lib
from lapa_jax.data.streams import Batch, Order, Part, Stream, hashed

_OFF = augment_lib.Augment()
_NOTHING = action_examples.Beside()


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
        text = None if tokenizer is None else latent_examples.of_each(members, tokenizer.encode)
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
    labels: latents_lib.Latents | Sequence[latents_lib.Latents] | latent_examples.Follow,
    rows: latent_rows.Rows,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    blank_instruction_rate: float = 0.0,
    augment: augment_lib.Augment = _OFF,
    encoded: Sequence[encoded_lib.Encoded] | None = None,
    resize: str = "antialias",
    **order: Any,
) -> Stream | packed_stream.PackedStream:
    """Rows of tokens (`sequences`) and their images: image uint8[B, E, H, W, 3], E examples a row at most.

    A mixture takes one `Latents` a member, all of the same code length; or latents are found on the device, from
    pair uint8[B, E, 2, h, w, 3] (`latent_examples.Follow`). Where the layout wants it there is text int32[B, E, L],
    too. Each example has its instruction replaced by the empty one with probability `blank_instruction_rate`.

    Args:
        encoded: what a frozen encoder gave for each frame, one a member; image is then as encoded, [B, E, P, ...].
        resize: how frames get to their size, see `encoded.read_frame`.
        order: the other fields of `Order`.

    Raises:
        UserError: labels that do not fit together or are not of these episodes, or an augmentation of images that
            are encoded already.
    """
    follow = isinstance(labels, latent_examples.Follow)
    labels = [labels] * len(episodes_lib.as_mixture(episodes).members) if follow else labels
    labels = _one_each(labels, episodes, "latents")
    seen = [None] * len(labels) if encoded is None else _one_each(encoded, episodes, "encoded datasets")
    if not follow and len({(found.code_length, found.num_codes) for found in labels}) > 1:
        raise errors.UserError(
            "the latent actions of the datasets are of different quantizers; label them with one"
        )

    def part(members: episodes_lib.Episodes, weight: float, codes: Any, cache: Any) -> Part:
        sight = latent_examples.Sight(members, image_size, resize, augment, cache)
        made = latent_examples.Examples(sight, codes, rows.layout, blank_instruction_rate)
        name = _name("latents", members, image_size, resize, augment, made.identity, rows.identity)
        example = made if rows.packed else rows.alone(made)
        return Part(made.index, example, name, weight, made.size)

    return _stream(
        part, episodes, Order(batch_size, seed, **order), labels, seen, rows=rows if rows.packed else None
    )


def action_stream(
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    layout: layouts.Layout,
    statistics: statistics_lib.Statistics | Sequence[statistics_lib.Statistics],
    horizon: int,
    batch_size: int,
    seed: int = 0,
    image_size: int | None = None,
    window: int = 1,
    augment: augment_lib.Augment = _OFF,
    resize: str = "antialias",
    beside: action_examples.Beside = _NOTHING,
    **order: Any,
) -> Stream:
    """Frames with the actions that follow: image uint8[B, H, W, 3], the prompt of the layout (tokens, kinds,
    segments int32[B, T], text int32[B, L] where it wants that), actions float32[B, horizon, A] normalised,
    action_mask bool[B, horizon], and what `beside` adds.

    Past the end of an episode its last action repeats and the mask is False. With window > 1 the image is
    uint8[B, window, H, W, 3], the last one now, with window_mask bool[B, window]; before the first step
    that one repeats and the mask is False. A mixture takes one `statistics` a member. `resize` is as in
    `latent_stream`, and `order` takes the other fields of `Order`.

    Raises:
        UserError: episodes of the video view, which have no actions, or without what `beside` names.
    """

    def part(members: episodes_lib.Episodes, weight: float, stats: statistics_lib.Statistics) -> Part:
        example = action_examples.Examples(
            members, layout, stats, horizon, image_size, resize, augment, window, beside
        )
        more = beside.identity if beside != _NOTHING else ()
        name = _name("actions", members, horizon, image_size, resize, window, augment, *more)
        return Part(transforms.StepIndex(members.lengths), example, name, weight)

    return _stream(part, episodes, Order(batch_size, seed, **order), _one_each(statistics, episodes, "statistics"))


def _stream(
    part: Callable[..., Part],
    episodes: episodes_lib.Episodes | episodes_lib.Mixture,
    order: Order,
    *more: Sequence,
    rows: latent_rows.Rows | None = None,
) -> Stream | packed_stream.PackedStream:
    mixture = episodes_lib.as_mixture(episodes)
    parts = [part(*each) for each in zip(mixture.members, mixture.weights, *more, strict=True)]
    if rows is not None:
        return packed_stream.PackedStream(parts, order, rows, mixture.balance)
    return Stream(parts, order, mixture.balance)


def _one_each(found: Any, episodes: episodes_lib.Episodes | episodes_lib.Mixture, what: str) -> Sequence[Any]:
    found = list(found) if isinstance(found, Sequence) else [found]
    members = len(episodes_lib.as_mixture(episodes).members)
    if len(found) != members:
        raise errors.UserError(f"{len(found)} {what} for {members} datasets; give one for each")
    return found


def _name(kind: str, episodes: episodes_lib.Episodes, *choices: Any) -> str:
    return hashed(kind, (kind, episodes.fingerprint, choices))
