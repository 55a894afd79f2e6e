"""Filters on clips whose cuts, moving things and camera motion are known."""

import json
from pathlib import Path

import make_videos
import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.data.video import camera, decoding, motion, pictures, recordings

VIDEOS = Path(__file__).resolve().parents[3] / "shared/data/videos"
RATE = 10
WIDTH, HEIGHT = 240, 180


def view(scene, x=0.0, y=0.0, zoom=1.0, degrees=0.0):
    """What a camera sees of a larger scene when it is moved by (x, y) pixels, zoomed and turned."""
    turn = np.exp(1j * np.deg2rad(degrees)) / zoom
    centre = complex(scene.shape[1] / 2 + x, scene.shape[0] / 2 + y)
    corner = centre - turn * complex(WIDTH / 2, HEIGHT / 2)
    affine = (turn.real, -turn.imag, corner.real, turn.imag, turn.real, corner.imag)
    image = Image.fromarray(scene).transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC
    )
    return np.asarray(image)


def with_hand(frames, share=0.25, speed=6):
    """A textured square, `share` of the frame, moves over each of them."""
    side = int((share * WIDTH * HEIGHT) ** 0.5)
    hand = make_videos.texture(side, side, seed=99)
    out = []
    for t, frame in enumerate(frames):
        x = int(abs((t * speed + 20) % (2 * (WIDTH - side)) - (WIDTH - side)))
        frame = frame.copy()
        frame[30 : 30 + side, x : x + side] = hand
        out.append(frame)
    return out


@pytest.fixture(scope="module")
def scene():
    return make_videos.texture(420, 560)


def noisy(frames, std=2.0):
    rng = np.random.default_rng(0)
    return [np.clip(f + rng.normal(0, std, f.shape), 0, 255).astype(np.uint8) for f in frames]


def judge(frames, **filters):
    return motion.judge(frames, RATE, motion.Filters(**filters))


def test_translation_is_measured_in_widths_a_second(scene):
    for pixels in (0.6, 2.0, 8.0):
        frames = noisy([view(scene, x=pixels * (t - 10)) for t in range(20)])
        assert judge(frames).camera_speed == pytest.approx(pixels * RATE / WIDTH, rel=0.05)


def test_speed_does_not_depend_on_rate_or_size(scene):
    frames = [view(scene, x=1.0 * (t - 30)) for t in range(60)]
    fast = motion.judge(frames, 30, motion.Filters()).camera_speed
    slow = motion.judge(frames[::3], 10, motion.Filters()).camera_speed
    half = motion.judge([np.asarray(Image.fromarray(f).resize((120, 90))) for f in frames], 30, motion.Filters())
    assert fast == pytest.approx(30 / WIDTH, rel=0.05) and slow == pytest.approx(fast, rel=0.05)
    assert half.camera_speed == pytest.approx(fast, rel=0.1)


def test_a_moving_hand_is_no_camera_motion(scene):
    frames = noisy(with_hand([view(scene)] * 20))
    verdict = judge(frames, camera="drop")
    assert verdict.camera_speed < 0.01 and verdict.frames is frames and verdict.change > 0.05


def test_camera_motion_is_seen_behind_a_moving_hand(scene):
    frames = noisy(with_hand([view(scene, y=3.0 * (t - 10)) for t in range(20)]))
    verdict = judge(frames, camera="drop")
    assert verdict.camera_speed == pytest.approx(3 * RATE / WIDTH, rel=0.1)
    assert verdict.frames is None and verdict.reason == "camera moves"


@pytest.mark.parametrize("change", ({"zoom": 0.02}, {"degrees": 1.5}))
def test_zoom_and_rotation_count(scene, change):
    frames = [view(scene, **{k: (k == "zoom") + v * t for k, v in change.items()}) for t in range(15)]
    assert judge(frames).camera_speed > 0.05


def test_a_hand_before_a_plain_wall_is_no_camera_motion():
    wall = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    verdict = judge(noisy(with_hand([wall] * 20, share=0.1)), camera="drop")
    assert verdict.frames is not None and (verdict.camera_speed is None or verdict.camera_speed < 0.01)


def test_static_clips_are_dropped_and_noise_does_not_save_them(scene):
    verdict = judge(noisy([view(scene)] * 20, std=4.0))
    assert verdict.frames is None and verdict.reason == "static"
    brighter = [np.clip(view(scene) * (0.7 + 0.01 * t), 0, 255).astype(np.uint8) for t in range(20)]
    assert judge(brighter).change < 0.1  # much of a change of exposure is set off
    small = judge(noisy(with_hand([view(scene)] * 20, share=0.02)))
    assert small.frames is not None
    assert judge([view(scene)] * 20, static=0.0).frames is not None


def test_compensation_makes_the_background_stand_still(scene):
    frames = [view(scene, x=1.2 * (t - 10), y=0.6 * t, degrees=0.1 * t) for t in range(20)]
    before, verdict = judge(frames), judge(frames, camera="compensate", static=0.0)
    assert verdict.reason == "compensated" and verdict.camera_speed == before.camera_speed > 0.05
    assert len(verdict.frames) == 20 and len({f.shape for f in verdict.frames}) == 1
    height, width, _ = verdict.frames[0].shape
    assert width / height == pytest.approx(WIDTH / HEIGHT, rel=0.03)
    assert height * width > 0.6 * HEIGHT * WIDTH
    assert judge(verdict.frames, static=0.0).camera_speed < 0.004
    first, last = (verdict.frames[i].astype(float) for i in (0, -1))
    assert np.abs(first - last).mean() < 0.2 * np.abs(frames[0].astype(float) - frames[-1]).mean()
    assert min(f.min(axis=2).max(axis=0).min() for f in verdict.frames) > 0  # no black border


def test_compensated_clips_keep_what_moves_in_them(scene):
    frames = with_hand([view(scene, x=1.5 * (t - 10)) for t in range(20)])
    assert judge(frames, camera="compensate").change > 0.03
    still = [view(scene, x=1.5 * (t - 10)) for t in range(20)]
    assert judge(still, camera="compensate").reason == "static"  # nothing but the camera moved


def test_compensation_gives_up_when_too_little_is_left(scene):
    frames = [view(scene, x=6.0 * (t - 10)) for t in range(20)]
    verdict = judge(frames, camera="compensate")
    assert verdict.frames is None and verdict.reason == "camera moves too far"
    assert judge(frames, camera="compensate", min_common=0.2, static=0.0).frames is not None


def test_keep_only_measures(scene):
    frames = [view(scene, x=6.0 * (t - 10)) for t in range(20)]
    verdict = judge(frames)
    assert verdict.frames is frames and verdict.camera_speed > 0.2


def test_hard_cuts_are_found():
    scenes = [with_hand([make_videos.texture(HEIGHT, WIDTH, seed)] * 8) for seed in range(4)]
    assert motion.cuts(sum(scenes, []), motion.Filters()) == [8, 16, 24]
    assert motion.cuts(sum(scenes, []), motion.Filters(cut=1.0)) == []


def test_a_cut_right_after_the_first_frame_is_found():
    one, other = (make_videos.texture(HEIGHT, WIDTH, seed) for seed in (0, 1))
    assert motion.cuts([one] + [other] * 6, motion.Filters()) == [1]
    assert motion.cuts([one] * 6 + [other], motion.Filters()) == [6]


def test_fast_motion_is_no_cut(scene):
    frames = with_hand([view(scene, x=9.0 * (t - 10)) for t in range(20)], share=0.5, speed=25)
    assert motion.cuts(frames, motion.Filters()) == []
    assert motion.cuts(frames[:1], motion.Filters()) == []


def test_short_and_featureless_clips_are_judged():
    plain = [np.full((HEIGHT, WIDTH, 3), 90 + t, np.uint8) for t in range(2)]
    verdict = judge(plain, camera="compensate")
    assert verdict.camera_speed is None and verdict.reason == "static"
    tall = [make_videos.texture(400, 20, seed) for seed in range(2)]
    assert judge(tall, static=0.0).frames is not None


def test_wrong_thresholds_are_named():
    for wrong in ({"camera": "ignore"}, {"static": 2.0}, {"camera_speed": -1.0}, {"min_common": float("nan")}):
        with pytest.raises(errors.UserError, match=next(iter(wrong))):
            motion.Filters(**wrong)


@pytest.mark.skipif(not VIDEOS.is_dir(), reason="no ../shared/data/videos")
def test_real_cameras_that_stand_still():
    picture = pictures.Picture(128, "whole")
    names = ["hands_blocks.mp4", *json.loads((VIDEOS / "instructions.json").read_text())]
    clips = []
    for name in names:
        reader = decoding.open_footage(recordings.Footage(str(VIDEOS / name)), picture)
        frames = list(reader.at(t / RATE for t in range(30)))
        verdict = judge(frames, camera="drop")
        assert verdict.frames is frames and verdict.camera_speed < 0.01 and verdict.change > 0.1
        assert not motion.cuts(frames, motion.Filters())
        clips.append([np.asarray(Image.fromarray(f).resize((160, 128))) for f in frames])
    edges = np.cumsum([len(clip) for clip in clips])[:-1]
    assert motion.cuts(sum(clips, []), motion.Filters()) == list(edges)


def test_window_is_the_largest_that_is_covered():
    covered = np.zeros((60, 80), bool)
    covered[10:50, 5:65] = True
    top, left, height, width = camera._largest_window(covered)
    assert covered[top : top + height, left : left + width].all() and height == 40 and width in (53, 54)
    assert camera._largest_window(np.zeros((60, 80), bool)) is None
    assert camera._largest_window(np.ones((60, 80), bool)) == (0, 0, 60, 80)
