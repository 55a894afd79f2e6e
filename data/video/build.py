"""Builds a dataset of human video: Something-Something V2, a folder of videos, or folders of frames.

    python data/video/build.py --source=/videos/ssv2 --out=datasets --rate=10

A finished dataset with the same flags is kept as it is; a killed build goes on where it was.
"""

import json
import sys
from pathlib import Path

from absl import app, flags

from lapa_jax import errors
from lapa_jax.data.stored import storage
from lapa_jax.data.video import clips, motion
from lapa_jax.data.video import folders as video

_SOURCE = flags.DEFINE_string("source", None, "Folder of the videos.", required=True)
_OUT = flags.DEFINE_string("out", None, "The dataset goes to OUT/NAME/1.0.0.", required=True)
_NAME = flags.DEFINE_string("name", None, "Of the dataset; by default it follows from the source.")
_SPLITS = flags.DEFINE_list("splits", ["train", "val"], "Splits to build; 'all' puts every video into one.")

_RATE = flags.DEFINE_float("rate", 10.0, "Steps a second.")
_SIZE = flags.DEFINE_integer("size", 256, "Side of the frames, pixels.")
_FIT = flags.DEFINE_enum("fit", "stretch", ["stretch", "crop"], "Squeeze the whole frame, or cut a square.")
_QUALITY = flags.DEFINE_integer("quality", 95, "Of the JPEGs, 1..95.")
_MAX_SECONDS = flags.DEFINE_float("max_seconds", 10.0, "Longer videos become several clips.")
_MIN_SECONDS = flags.DEFINE_float("min_seconds", 0.5, "Shorter clips are dropped.")
_SPEED = flags.DEFINE_float("speed", 1.0, "The files play this many times faster than life.")
_FRAME_RATE = flags.DEFINE_float("frame_rate", None, "Images a second, for a source of folders of images.")

_FILTER = flags.DEFINE_bool("filter", False, "Split at cuts, drop static clips, and do --camera.")
_CAMERA = flags.DEFINE_enum(
    "camera", "keep", ["keep", "drop", "compensate"], "What to do with clips of a moving camera; needs --filter."
)
_CAMERA_SPEED = flags.DEFINE_float(
    "camera_speed", motion.Filters.camera_speed, "From which the camera moves, widths of the frame a second."
)
_MIN_COMMON = flags.DEFINE_float(
    "min_common", motion.Filters.min_common, "Share of the frame that compensation must leave."
)
_STATIC = flags.DEFINE_float(
    "static", motion.Filters.static, "Clips are static when a smaller share of pixels changes in half a second."
)
_CUT = flags.DEFINE_float("cut", motion.Filters.cut, "Mean change of colour, 0..1, that is a cut.")

_WORKERS = flags.DEFINE_integer("num_workers", None, "Processes that decode; by default one a core.")
_ON_ERROR = flags.DEFINE_enum("on_error", "skip", ["skip", "fail"], "What to do with files that do not decode.")
_SHARD_INDEX = flags.DEFINE_integer("shard_index", 0, "Of this machine, among --shard_count.")
_SHARD_COUNT = flags.DEFINE_integer("shard_count", 1, "Machines that build this dataset together.")


def _settings() -> clips.Settings:
    if not _FILTER.value and _CAMERA.value != "keep":
        raise errors.UserError(f"--camera={_CAMERA.value} does nothing without --filter; add it")
    filters = motion.Filters(
        static=_STATIC.value,
        cut=_CUT.value,
        camera=_CAMERA.value,
        camera_speed=_CAMERA_SPEED.value,
        min_common=_MIN_COMMON.value,
    )
    return clips.Settings(
        rate=_RATE.value,
        size=_SIZE.value,
        fit=_FIT.value,
        quality=_QUALITY.value,
        max_seconds=_MAX_SECONDS.value,
        min_seconds=_MIN_SECONDS.value,
        speed=_SPEED.value,
        filters=filters if _FILTER.value else None,
    )


def _sources() -> dict:
    sources = {
        split: video.open_recordings(_SOURCE.value, split, rate=_FRAME_RATE.value, name=_NAME.value)
        for split in _SPLITS.value
    }
    for split in [split for split, source in sources.items() if not len(source)]:
        print(f"{split}: left out, there are too few videos to hold one out", file=sys.stderr)
        del sources[split]
    return sources


def _report(folder: Path) -> None:
    if not (folder / storage.READY).exists():
        print(f"{folder}: this machine's shards are done, others are still to come")
        return
    for split, report in json.loads((folder / storage.READY).read_text())["report"].items():
        counts = ", ".join(f"{value} {name}" for name, value in report["counts"].items())
        print(f"{split}: {counts}, {len(report['bad'])} bad files, {len(report['damaged'])} damaged ones")
        for name, quantiles in report.get("scores", {}).items():
            print(f"{split}: {name} " + ", ".join(f"{q} {value:g}" for q, value in quantiles.items()))
    print(folder)


def main(_: list[str]) -> None:
    with errors.in_one_line():
        folder = clips.build(
            _sources(),
            _OUT.value,
            _settings(),
            workers=_WORKERS.value,
            on_error=_ON_ERROR.value,
            shard_index=_SHARD_INDEX.value,
            shard_count=_SHARD_COUNT.value,
        )
    _report(folder)


if __name__ == "__main__":
    app.run(main)
