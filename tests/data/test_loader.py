"""Streams: the right pairs, in an order that seed and position decide, on any process count."""

import dataclasses
import json

import numpy as np
import pytest

from lapa_jax import errors, vocab
from lapa_jax.data import augment, gaps, latent_examples, latent_rows, latents, layouts, loader, prompts, statistics

GAP = 4  # steps


def seconds(steps):
    """A gap in the seconds of the tabletop's 10 Hz."""
    return gaps.Gap(steps / 10)


@pytest.fixture(scope="module")
def tokenizer(video_episodes, robot_episodes):
    instructions = (*video_episodes.instructions, *robot_episodes.instructions)
    return prompts.train_tokenizer(instructions, length=8)


@pytest.fixture(scope="module")
def layout(tokenizer):
    return layouts.Clean(tokenizer, num_image_tokens=5, code_length=2)


@pytest.fixture(scope="module")
def rows(layout, video_episodes):
    return latent_rows.Rows.of(layout, set(video_episodes.instructions))


@pytest.fixture(scope="module")
def packed(layout, video_episodes):
    return latent_rows.Rows.of(layout, set(video_episodes.instructions), length=40, packed=True)


@pytest.fixture(scope="module")
def latent_actions(video_episodes):
    provenance = latents.Provenance({}, video_episodes.fingerprint, GAP, GAP / 10, 2, 1000)
    # Each code names its (episode, t), so that a test can find the frame that it belongs to.
    codes = [
        np.array([[e, t] for t in range(length - GAP)], np.int32)
        for e, length in enumerate(video_episodes.lengths)
    ]
    return latents.Latents(provenance, tuple(codes))


@pytest.fixture(params=["frames", "frame_pairs", "latents", "packed", "follow", "actions"])
def make(request, video_episodes, robot_episodes, layout, rows, packed, latent_actions):
    """Makes the stream under test with the `Order` fields given."""
    scaling = statistics.compute(robot_episodes["action"])

    def make_stream(batch_size=4, **order):
        if request.param == "frames":
            return loader.frames(video_episodes, batch_size, **order)
        if request.param == "frame_pairs":
            return loader.frame_pairs(video_episodes, seconds(GAP), batch_size, **order)
        if request.param in ("latents", "packed"):
            shared = packed if request.param == "packed" else rows
            return loader.latent_stream(
                video_episodes, latent_actions, shared, batch_size, blank_instruction_rate=0.5, **order
            )
        if request.param == "follow":
            gap = gaps.Gap(0.3, 0.5)
            found = latent_rows.Rows.of(layout, set(video_episodes.instructions), latents_follow=True)
            return loader.latent_stream(video_episodes, latent_examples.Follow(gap, 32), found, batch_size, **order)
        return loader.action_stream(robot_episodes, layout, scaling, 3, batch_size, **order)

    make_stream.kind = request.param
    return make_stream


def take(stream, count):
    return [next(stream) for _ in range(count)]


def same(left, right):
    return len(left) == len(right) and all(
        a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)
        for a, b in zip(left, right, strict=True)
    )


def test_order_follows_from_the_seed(make):
    assert same(take(make(seed=1), 12), take(make(seed=1), 12))
    assert not same(take(make(seed=1), 12), take(make(seed=2), 12))


def test_order_does_not_depend_on_threads(make):
    assert same(take(make(num_threads=0), 12), take(make(num_threads=4), 12))


def test_resume_is_exact_across_epochs(make):
    stream = make(seed=5)
    take(stream, 9)
    state = json.loads(json.dumps(stream.get_state()))
    ahead = take(stream, 15)
    fresh = make(seed=5)
    take(fresh, 2)
    fresh.set_state(state)
    assert same(take(fresh, 15), ahead)
    assert stream.num_examples < 15 * 4  # so that the comparison went over an epoch's end


def test_spec_is_the_local_batch(make):
    for count in (1, 2):
        stream = make(batch_size=4, process_index=0, process_count=count)
        batch = next(stream)
        assert stream.spec == {k: (v.shape, v.dtype) for k, v in batch.items()}
        assert all(len(v) == 4 // count for v in batch.values())


def test_processes_share_the_global_batches(make):
    whole = take(make(seed=2), 12)
    parts = [take(make(seed=2, process_index=p, process_count=2), 12) for p in range(2)]
    for together, left, right in zip(whole, *parts, strict=True):
        for name, rows in together.items():
            np.testing.assert_array_equal(rows, np.concatenate([left[name], right[name]]))


def test_a_resumed_run_may_have_another_number_of_processes(make):
    stream = make(seed=2)
    take(stream, 3)
    state, ahead = stream.get_state(), next(stream)
    half = make(seed=2, process_index=1, process_count=2)
    half.set_state(state)
    for name, rows in next(half).items():
        np.testing.assert_array_equal(rows, ahead[name][len(rows) :])


def codes_of(batch):
    """(episode, t) of every example, in order: what the latents of this test say."""
    codes = batch["targets"][batch["loss_mask"]]
    assert (batch["target_kinds"][batch["loss_mask"]] == vocab.LATENT).all()
    return [tuple(map(int, pair)) for pair in codes.reshape(-1, 2)]


def test_epochs_hold_each_example_once_in_changing_order(video_episodes, latent_actions, rows):
    num = int((video_episodes.lengths - GAP).sum())
    stream = loader.latent_stream(video_episodes, latent_actions, rows, 1)
    epochs = [[codes_of(next(stream))[0] for _ in range(num)] for _ in range(2)]
    assert len(set(epochs[0])) == num == stream.num_examples
    assert sorted(epochs[0]) == sorted(epochs[1]) and epochs[0] != epochs[1]


def test_evaluation_is_one_ordered_epoch_with_its_last_partial_batch(make):
    if make.kind == "packed":
        with pytest.raises(errors.UserError, match="forever"):
            make(batch_size=4, repeat=False)
        return
    batches = list(make(batch_size=4, repeat=False, shuffle=False))
    again = list(make(batch_size=4, repeat=False, shuffle=False, seed=0))
    sizes = [len(next(iter(batch.values()))) for batch in batches]
    num = make().num_examples
    assert sum(sizes) == num and sizes[:-1] == [4] * (len(sizes) - 1)
    assert sizes[-1] == (num % 4 or 4) and same(batches, again)


def test_frames_are_all_steps_in_stored_order(video_episodes):
    stream = loader.frames(video_episodes, 1, shuffle=False, repeat=False, image_size=32)
    expected = [video_episodes.frame(e, t, 32) for e, n in enumerate(video_episodes.lengths) for t in range(n)]
    np.testing.assert_array_equal(np.concatenate([batch["frame"] for batch in stream]), np.stack(expected))


def test_frame_pairs_are_gap_apart_and_in_stored_order(video_episodes):
    stream = loader.frame_pairs(video_episodes, seconds(GAP), 1, shuffle=False, repeat=False)
    for e, length in enumerate(video_episodes.lengths):
        for t in range(length - GAP):
            batch = next(stream)
            np.testing.assert_array_equal(batch["frame"][0], video_episodes.frame(e, t))
            np.testing.assert_array_equal(batch["next_frame"][0], video_episodes.frame(e, t + GAP))
    with pytest.raises(StopIteration):
        next(stream)


def test_frame_pairs_with_image_size(video_episodes):
    stream = loader.frame_pairs(video_episodes, seconds(GAP), 2, image_size=32)
    assert next(stream)["frame"].shape == (2, 32, 32, 3)
    assert stream.spec["frame"] == ((2, 32, 32, 3), np.dtype(np.uint8))


def check_segment(batch, row, segment, image, episodes, layout):
    """A segment of a row is the example that its latents name, with its own image."""
    at = batch["segments"][row] == segment
    codes = batch["targets"][row][at & batch["loss_mask"][row]]
    e, t = map(int, codes)
    np.testing.assert_array_equal(image, episodes.frame(e, t))
    kinds = batch["kinds"][row][at]
    words = batch["tokens"][row][at][kinds == vocab.TEXT]
    expected = [*layout.tokenizer.ids(episodes.instruction(e)), layout.tokenizer.start_id]
    np.testing.assert_array_equal(words, expected)
    places = batch["tokens"][row][at][kinds == vocab.IMAGE]
    first = (segment - 1) * layout.num_image_tokens
    np.testing.assert_array_equal(places, first + np.arange(layout.num_image_tokens))
    return e, t


@pytest.mark.parametrize("shared", [False, True])
def test_latents_belong_to_their_frame_and_instruction(
    video_episodes, latent_actions, layout, rows, packed, shared
):
    stream = loader.latent_stream(video_episodes, latent_actions, packed if shared else rows, 8)
    batch = next(stream)
    for row in range(8):
        count = batch["segments"][row].max()
        assert count > 1 if shared else count == 1
        for segment in range(1, count + 1):
            image = batch["image"][row, segment - 1]
            check_segment(batch, row, segment, image, video_episodes, layout)
        assert not batch["image"][row, count:].any()


def test_shared_rows_hold_each_example_about_as_often(video_episodes, latent_actions, packed):
    num = int((video_episodes.lengths - GAP).sum())
    stream, seen = loader.latent_stream(video_episodes, latent_actions, packed, 4), []
    while len(seen) < 3 * num:
        seen += codes_of(next(stream))
    counts = np.unique(seen, axis=0, return_counts=True)[1]
    assert len(counts) == num and counts.min() >= 2 and counts.max() <= 4


def test_pairs_to_be_labelled_are_the_frames_of_a_pair(video_episodes, layout):
    rows = latent_rows.Rows.of(layout, set(video_episodes.instructions), latents_follow=True)
    stream = loader.latent_stream(
        video_episodes, latent_examples.Follow(seconds(GAP), 32), rows, 1, shuffle=False, repeat=False
    )
    batch = next(stream)
    np.testing.assert_array_equal(batch["pair"][0, 0, 0], video_episodes.frame(0, 0, 32))
    np.testing.assert_array_equal(batch["pair"][0, 0, 1], video_episodes.frame(0, GAP, 32))
    assert codes_of(batch) == [(0, 1)]  # numbers of latents, to be found


@dataclasses.dataclass(frozen=True)
class Cache:
    """An encoder's answers: each names its frame."""

    provenance = {"encoder": "x"}

    def frame(self, episode, t):
        return np.array([episode, t], np.uint16)


def test_what_is_encoded_takes_the_place_of_pixels(video_episodes, latent_actions, rows):
    stream = loader.latent_stream(video_episodes, latent_actions, rows, 8, encoded=[Cache()])
    batch = next(stream)
    assert batch["image"].shape == (8, 1, 2)
    assert codes_of(batch) == [tuple(x) for x in batch["image"][:, 0].tolist()]
    change = augment.Augment(brightness=0.5)
    with pytest.raises(errors.UserError, match="data.augment"):
        loader.latent_stream(video_episodes, latent_actions, rows, 8, augment=change, encoded=[Cache()])


def test_rows_that_are_too_short_are_refused_before_anything_is_read(video_episodes, layout):
    texts = set(video_episodes.instructions)
    longest = max(layout.template(text).size for text in texts)
    assert latent_rows.Rows.of(layout, texts, longest).length == longest
    with pytest.raises(errors.UserError, match=f"{longest} places and a row has {longest - 1}.*row_length"):
        latent_rows.Rows.of(layout, texts, longest - 1)
    with pytest.raises(errors.UserError, match="needs --config.data.row_length"):
        latent_rows.Rows.of(layout, texts, packed=True)


@pytest.mark.parametrize("rate,low,high", [(0.0, 0, 0), (0.5, 0.35, 0.65), (1.0, 1, 1)])
def test_instructions_are_blanked_at_their_rate(video_episodes, latent_actions, rows, rate, low, high):
    stream = loader.latent_stream(video_episodes, latent_actions, rows, 200, blank_instruction_rate=rate)
    batch = next(stream)
    words = ((batch["kinds"] == vocab.TEXT) & (batch["segments"] > 0)).sum(axis=1)
    assert low <= (words == 2).mean() <= high  # begin and start: no word


def test_actions_are_normalised_and_masked_past_the_end(robot_episodes, layout):
    scaling = statistics.compute(robot_episodes["action"])
    stream = loader.action_stream(robot_episodes, layout, scaling, 3, 1, shuffle=False, repeat=False)
    for actions in robot_episodes["action"]:
        wanted = scaling.normalise(actions)
        for t in range(len(actions)):
            batch = next(stream)
            rows = np.minimum(np.arange(t, t + 3), len(actions) - 1)
            np.testing.assert_array_equal(batch["actions"][0], wanted[rows])
            np.testing.assert_array_equal(
                batch["action_mask"][0], np.arange(t, t + 3) < len(actions)
            )


def test_gap_longer_than_every_episode_names_both_numbers(video_episodes):
    longest = int(video_episodes.lengths.max())
    with pytest.raises(errors.UserError, match=rf"gap of {longest} .*longest has {longest}"):
        loader.frame_pairs(video_episodes, seconds(longest), 1)
    assert loader.frame_pairs(video_episodes, seconds(longest - 1), 1).num_examples >= 1
    with pytest.raises(errors.UserError, match="data.gap 0"):
        seconds(0)


def test_video_episodes_have_no_action_stream(video_episodes, robot_episodes, layout):
    scaling = statistics.compute(robot_episodes["action"])
    with pytest.raises(errors.UserError, match="video view"):
        loader.action_stream(video_episodes, layout, scaling, 3, 2)


def test_state_of_another_stream_is_refused(video_episodes):
    state = loader.frame_pairs(video_episodes, seconds(GAP), 4, seed=1).get_state()
    for other in (dict(batch_size=2, seed=1), dict(batch_size=4, seed=2)):
        with pytest.raises(errors.UserError, match="cannot resume"):
            loader.frame_pairs(video_episodes, seconds(GAP), **other).set_state(state)
    with pytest.raises(errors.UserError, match="stream was"):
        loader.frame_pairs(video_episodes, seconds(GAP - 1), 4, seed=1).set_state(state)


def test_impossible_orders_are_refused(video_episodes):
    for order in (
        dict(batch_size=3, process_count=2),
        dict(batch_size=0),
        dict(batch_size=4, process_index=2, process_count=2),
    ):
        with pytest.raises(errors.UserError):
            loader.frame_pairs(video_episodes, seconds(GAP), **order)
