"""Mixtures, gaps in seconds, windows, augmentation and workers: what a batch may hold and in which order."""

import dataclasses
import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data import (
    augment,
    episodes,
    gaps,
    latent_examples,
    latent_rows,
    layouts,
    loader,
    prompts,
    statistics,
    transforms,
)


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Frames whose pixels say which dataset, episode and step they are of."""

    dataset: int
    size: int = 4

    def read(self, episode, step):
        image = np.zeros((self.size, self.size, 3), np.uint8)
        image[...] = self.dataset, episode, step
        return image


@dataclasses.dataclass(frozen=True)
class Actions:
    lengths: tuple
    dims: int = 2

    def read(self, episode):
        steps = np.arange(self.lengths[episode], dtype=np.float32)
        return np.stack([steps, np.full_like(steps, episode)][: self.dims], axis=1)


def toy(dataset, lengths, rate=10.0, size=4, dims=2):
    return episodes.Episodes(
        name=f"toy{dataset}",
        fingerprint=f"toy-{dataset}-{lengths}-{rate}",
        view="robot",
        rate=rate,
        image_shape=(size, size, 3),
        lengths=np.array(lengths, np.int64),
        instructions=("push",) * len(lengths),
        camera="image_primary",
        cameras={"image_primary": Numbered(dataset, size)},
        arrays={"action": Actions(tuple(lengths), dims)},
        stored=np.arange(len(lengths)),
    )


def places(batch, name="frame"):
    """(dataset, episode, step) of each row."""
    return [tuple(map(int, image.reshape(-1, 3)[0])) for image in batch[name]]


def take(stream, count):
    return list(itertools.islice(stream, count))


def equal(left, right):
    return all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(left, right, strict=True)
    )


@hypothesis.settings(deadline=None, max_examples=12)
@hypothesis.given(
    lengths=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    gap=st.integers(1, 3),
    processes=st.sampled_from([1, 2, 3, 6]),
    seed=st.integers(0, 99),
)
def test_hosts_are_disjoint_and_cover_every_pair_once_an_epoch(lengths, gap, processes, seed):
    pairs = {(0, e, t) for e, length in enumerate(lengths) for t in range(length - gap)}
    data = toy(0, lengths)
    if not pairs:
        with pytest.raises(errors.UserError, match="no episode is longer than the gap"):
            loader.frame_pairs(data, gaps.Gap(gap / 10), 6)
        return
    streams = [
        loader.frame_pairs(
            data, gaps.Gap(gap / 10), 6, seed, process_index=p, process_count=processes, num_threads=0
        )
        for p in range(processes)
    ]
    whole = loader.frame_pairs(data, gaps.Gap(gap / 10), 6, seed, num_threads=0)
    seen = []
    for batch in take(whole, -(-len(pairs) // 6) * 2):
        parts = [places(next(stream)) for stream in streams]
        rows = places(batch)
        assert [row for part in parts for row in part] == rows
        seen += rows
    assert set(seen[: len(pairs)]) == pairs and len(seen) >= len(pairs)


@hypothesis.settings(deadline=None, max_examples=6)
@hypothesis.given(weights=st.lists(st.floats(0.1, 5), min_size=2, max_size=4), balance=st.booleans())
def test_weights_hold_in_expectation(weights, balance):
    members = tuple(toy(i, [60 + 40 * i] * (i + 1)) for i in range(len(weights)))
    mixture = episodes.Mixture(members, tuple(weights), balance)
    rows = [
        row
        for batch in take(loader.frame_pairs(mixture, gaps.Gap(0.1), 50, num_threads=0), 20)
        for row in places(batch)
    ]
    sizes = np.array([int((member.lengths - 1).sum()) for member in members])
    expected = np.array(weights) * (sizes if balance else 1)
    found = np.bincount([dataset for dataset, *_ in rows], minlength=len(weights)) / len(rows)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=0.01)


def test_each_member_of_a_mixture_is_covered_evenly():
    mixture = episodes.Mixture((toy(0, [9]), toy(1, [5, 5])), (1.0, 1.0))
    rows = [row for batch in take(loader.frame_pairs(mixture, gaps.Gap(0.1), 16), 10) for row in places(batch)]
    counts = {row: rows.count(row) for row in set(rows)}
    assert len(counts) == 16 and set(counts.values()) == {10}  # each is drawn once in every 16


def layout():
    return layouts.Clean(prompts.train_tokenizer(["push"], 4), num_image_tokens=3, code_length=2)


@pytest.mark.parametrize("kind", ["pairs", "actions", "packed"])
def test_a_mixture_resumes_at_every_step_on_any_hosts_and_workers(kind):
    mixture = episodes.Mixture((toy(0, [5, 4]), toy(1, [6])), (1.0, 2.0))
    change = augment.Augment(crop=0.5, brightness=0.3)

    def make(**order):
        if kind == "pairs":
            return loader.frame_pairs(mixture, gaps.Gap(0.1, longest=0.3), 4, 7, augment=change, **order)
        if kind == "packed":
            rows = latent_rows.Rows.of(layout(), ["push"], length=20, packed=True, latents_follow=True)
            follow = latent_examples.Follow(gaps.Gap(0.1, longest=0.3), 4)
            threads = {key: value for key, value in order.items() if key != "num_workers"}
            return loader.latent_stream(mixture, follow, rows, 4, 7, augment=change, **threads)
        scaling = [statistics.compute(member["action"]) for member in mixture.members]
        return loader.action_stream(mixture, layout(), scaling, 2, 4, 7, window=2, augment=change, **order)

    straight = take(make(), 12)
    stream = make()
    for step in range(10):
        state = stream.get_state()
        assert len(str(state)) < 400
        fresh = make(num_threads=step % 3)
        fresh.set_state(state)
        assert equal(take(fresh, 2), straight[step : step + 2])
        halves = [make(process_index=p, process_count=2) for p in range(2)]
        for p, half in enumerate(halves):
            half.set_state(state)
            assert equal([next(half)], [{k: v[2 * p : 2 * p + 2] for k, v in straight[step].items()}])
        next(stream)


def test_worker_processes_do_not_change_the_order(video_episodes):
    def make(workers):
        stream = loader.frame_pairs(video_episodes, gaps.Gap(0.4), 4, 3, num_workers=workers)
        stream.set_state(state)
        return take(stream, 5)

    state = loader.frame_pairs(video_episodes, gaps.Gap(0.4), 4, 3).get_state() | {"batches": 2}
    assert equal(make(0), make(2))


@pytest.mark.parametrize("past_end", gaps.PAST_END)
def test_gaps_are_drawn_between_the_two_and_stay_in_the_episode(past_end):
    data = toy(0, [12, 3], rate=5.0)
    stream = loader.frame_pairs(data, gaps.Gap(0.4, longest=1.0, past_end=past_end), 100, num_threads=0)
    found = set()
    for batch in take(stream, 2):
        for (_, episode, first), (_, same, second) in zip(places(batch), places(batch, "next_frame"), strict=True):
            assert episode == same and second < data.lengths[episode]
            found.add((episode, second - first))
    long = {gap for episode, gap in found if episode == 0}
    assert long == ({2, 3, 4, 5} if past_end == "exclude" else {0, 1, 2, 3, 4, 5})
    assert {gap for episode, gap in found if episode == 1} == ({2} if past_end == "exclude" else {0, 1, 2})
    assert stream.num_examples == (11 if past_end == "exclude" else 15)


def test_a_gap_in_seconds_is_steps_of_each_dataset(caplog):
    fast, slow = toy(0, [40], rate=30.0), toy(1, [40], rate=3.0)
    assert gaps.Gap(0.6).steps(fast) == gaps.Steps(18, 18) and gaps.Gap(0.6).steps(slow) == gaps.Steps(2, 2)
    assert not caplog.text
    assert gaps.Gap(0.1).steps(slow).low == 1 and "a gap of 0.1 s becomes 1 steps, 0.333 s" in caplog.text
    with pytest.raises(errors.UserError, match="toy2: how many steps a second is not known"):
        gaps.Gap(0.6).steps(toy(2, [40], rate=None))


def test_gaps_that_make_no_sense_are_refused():
    for bad, message in [
        ((0.0,), "data.gap 0.0"),
        ((0.5, 0.4), "longest_gap 0.4"),
        ((0.5, None, "wrap"), "exclude, repeat"),
    ]:
        with pytest.raises(errors.UserError, match=message):
            gaps.Gap(*bad)


def test_windows_end_now_and_repeat_the_first_step():
    data = toy(0, [4])
    scaling = statistics.compute(data["action"])
    batches = list(loader.action_stream(data, layout(), scaling, 2, 1, window=3, shuffle=False, repeat=False))
    steps = [[int(image[0, 0, 2]) for image in batch["image"][0]] for batch in batches]
    assert steps == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    assert [batch["window_mask"][0].tolist() for batch in batches][:2] == [
        [False, False, True],
        [False, True, True],
    ]
    assert [batch["action_mask"][0].tolist() for batch in batches][-1] == [True, False]
    with pytest.raises(errors.UserError, match="window 0"):
        loader.action_stream(data, layout(), scaling, 2, 1, window=0)


def test_both_frames_of_a_pair_are_changed_alike_and_samples_differently(video_episodes):
    change = augment.Augment(crop=0.6, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05)
    same = dataclasses.replace(video_episodes, cameras={"image_primary": Still()})
    batch = next(loader.frame_pairs(same, gaps.Gap(0.4), 16, augment=change))
    np.testing.assert_array_equal(batch["frame"], batch["next_frame"])
    assert len({image.tobytes() for image in batch["frame"]}) == 16
    plain = next(loader.frame_pairs(same, gaps.Gap(0.4), 16))
    assert len({image.tobytes() for image in plain["frame"]}) == 1
    again = next(loader.frame_pairs(same, gaps.Gap(0.4), 16, augment=change))
    np.testing.assert_array_equal(batch["frame"], again["frame"])


class Still:
    def read(self, episode, step):
        del episode, step
        return np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("field", ["brightness", "contrast", "saturation", "hue", "crop"])
def test_each_augmentation_changes_the_image_and_none_changes_nothing(field):
    image = Still().read(0, 0)
    changed = augment.Augment(**{field: 0.5}).draw(np.random.default_rng(1))(image)
    assert changed.shape == image.shape and changed.dtype == np.uint8 and not np.array_equal(changed, image)
    np.testing.assert_array_equal(augment.Augment().draw(np.random.default_rng(1))(image), image)
    with pytest.raises(errors.UserError, match=f"data.augment.{field} 2"):
        augment.Augment(**{field: 2})


def test_mixtures_that_cannot_be_batched_are_refused():
    small, large = toy(0, [5]), toy(1, [5], size=8)
    mixture = episodes.Mixture((small, large), (1.0, 1.0))
    with pytest.raises(
        errors.UserError, match=r"differ in frame: \(4, 4, 3\) and \(8, 8, 3\); set data.image_size"
    ):
        loader.frame_pairs(mixture, gaps.Gap(0.1), 2)
    assert next(loader.frame_pairs(mixture, gaps.Gap(0.1), 2, image_size=4))["frame"].shape == (2, 4, 4, 3)
    other = episodes.Mixture((small, toy(1, [5], dims=1)), (1.0, 1.0))
    scaling = [statistics.compute(member["action"]) for member in other.members]
    with pytest.raises(errors.UserError, match="differ in actions"):
        loader.action_stream(other, layout(), scaling, 2, 2)
    with pytest.raises(errors.UserError, match="1 statistics for 2 datasets"):
        loader.action_stream(other, layout(), scaling[:1], 2, 2)
    with pytest.raises(errors.UserError, match="one epoch of a mixture"):
        loader.frame_pairs(mixture, gaps.Gap(0.1), 2, image_size=4, repeat=False)


def test_another_weight_or_member_is_another_stream():
    def state(*weights, lengths=(5, 5)):
        members = tuple(toy(i, [length]) for i, length in enumerate(lengths))
        return loader.frame_pairs(episodes.Mixture(members, weights), gaps.Gap(0.1), 2)

    saved = state(1.0, 2.0).get_state()
    state(1.0, 2.0).set_state(saved)
    for other in (state(1.0, 3.0), state(1.0, 2.0, lengths=(5, 6))):
        with pytest.raises(errors.UserError, match="stream was"):
            other.set_state(saved)
    with pytest.raises(errors.UserError, match="no position"):
        state(1.0, 2.0).set_state({k: v for k, v in saved.items() if k != "batches"})


def test_window_and_chunk_at_the_ends():
    assert transforms.window(0, 2)[0].tolist() == [0, 0] and transforms.window(5, 2)[0].tolist() == [4, 5]
