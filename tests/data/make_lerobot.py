"""Writes toy LeRobot datasets of the versions v2.0, v2.1 and v3.0.

Every frame is of one grey level that tells which step of which episode and camera it is, so that a
reader which takes the wrong one is found out after lossy compression as well.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lapa_jax.data import transforms

STATE, ACTION = "observation.state", "action"
TASKS = ("push the block", "open the drawer")
VERSIONS = ("v2.0", "v2.1", "v3.0")


@dataclasses.dataclass(frozen=True)
class Toy:
    """One episode: float32[T, 3] states, float32[T, 2] actions, the number of its task and of its first frame."""

    index: int
    first: int
    state: np.ndarray
    action: np.ndarray
    task_index: int

    def __len__(self) -> int:
        return len(self.state)

    def levels(self, camera: int) -> np.ndarray:
        """uint8[T]: grey levels of the frames of a camera, 9 apart."""
        return (20 + 3 * camera + 9 * (self.first + np.arange(len(self)))).astype(np.uint8)

    def frames(self, camera: int, side: int) -> np.ndarray:
        return np.broadcast_to(self.levels(camera)[:, None, None, None], (len(self), side, side, 3))


def toys(lengths: Sequence[int] = (6, 3, 5, 4)) -> list[Toy]:
    """Episodes of these lengths; together they have at most 25 steps, one grey level each."""
    assert sum(lengths) <= 25
    rng = np.random.default_rng(0)
    starts = np.cumsum([0, *lengths])
    return [
        Toy(i, int(starts[i]), rng.normal(size=(n, 3)).astype("f4"), rng.normal(size=(n, 2)).astype("f4"), i % 2)
        for i, n in enumerate(lengths)
    ]


def write(
    root: Path,
    version: str,
    episodes: Sequence[Toy],
    cameras: Mapping[str, str] | None = None,
    fps: int = 10,
    side: int = 32,
    per_file: int = 3,
    group_per_episode: bool = True,
) -> Path:
    """Writes a dataset.

    Args:
        cameras: feature -> "video" or "image"; the n-th has the levels `Toy.levels(n)`.
        per_file: v3.0: episodes a parquet file; mp4 files have one more.
        group_per_episode: v3.0: whether a row group is an episode (as recorded) or a file (as converted).
    """
    cameras = cameras or {"observation.images.top": "video"}
    write_info(root, version, episodes, cameras, fps, side)
    rows = [_rows(toy, cameras, fps, side, fixed=version != "v2.0") for toy in episodes]
    if version == "v3.0":
        _write_v3(root, episodes, rows, cameras, fps, side, per_file, group_per_episode)
    else:
        _write_v2(root, version, episodes, rows, cameras, fps, side)
    return root


def write_info(
    root: Path, version: str, episodes: Sequence[Toy], cameras: Mapping[str, str], fps: int, side: int
) -> None:
    """meta/info.json."""
    numbers = {STATE: ("float32", 3), ACTION: ("float32", 2), "timestamp": ("float32", 1)}
    numbers |= {key: ("int64", 1) for key in ("frame_index", "episode_index", "index", "task_index")}
    features = {key: {"dtype": dtype, "shape": [n], "names": None} for key, (dtype, n) in numbers.items()}
    for key, dtype in cameras.items():
        features[key] = {"dtype": dtype, "shape": [side, side, 3], "names": ["height", "width", "channels"]}
    info = {
        "codebase_version": version,
        "robot_type": "toy",
        "total_episodes": len(episodes),
        "total_frames": sum(map(len, episodes)),
        "total_tasks": len(TASKS),
        "chunks_size": 1000,
        "fps": fps,
        "splits": {"train": f"0:{len(episodes)}"},
        "features": features,
    }
    if version == "v3.0":
        info["data_path"] = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        info["video_path"] = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
    else:
        info["total_chunks"], info["chunks_size"] = -(-len(episodes) // 3), 3
        info["total_videos"] = len(episodes) * list(cameras.values()).count("video")
        info["data_path"] = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        info["video_path"] = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    _write_json(root / "meta/info.json", info)


def edit_info(root: Path, **changes: object) -> None:
    """Replaces entries of meta/info.json; None removes one."""
    info = {**json.loads((root / "meta/info.json").read_text()), **changes}
    _write_json(root / "meta/info.json", {k: v for k, v in info.items() if v is not None})


def edit_column(path: Path, key: str, values: pa.Array | Sequence | None) -> None:
    """Replaces a column of a parquet file, which gets one row group; None removes it."""
    table = pq.read_table(path)
    at = table.column_names.index(key)
    pq.write_table(table.remove_column(at) if values is None else table.set_column(at, key, pa.array(values)), path)


def write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    """uint8[T, H, W, 3] to an mp4 with a key frame every second frame, as LeRobot has them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps, options={"g": "2", "crf": "10", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")))
        container.mux(stream.encode(None))


def _rows(toy: Toy, cameras: Mapping[str, str], fps: int, side: int, fixed: bool) -> pa.Table:
    steps = np.arange(len(toy))

    def vectors(values: np.ndarray) -> pa.Array:
        kind = pa.list_(pa.float32(), values.shape[1]) if fixed else pa.list_(pa.float32())
        return pa.array(list(values), kind)

    columns = {
        STATE: vectors(toy.state),
        ACTION: vectors(toy.action),
        "timestamp": pa.array((steps / fps).astype("f4")),
        "frame_index": pa.array(steps),
        "episode_index": pa.array(np.full(len(toy), toy.index)),
        "index": pa.array(toy.first + steps),
        "task_index": pa.array(np.full(len(toy), toy.task_index)),
    }
    for number, (key, dtype) in enumerate(cameras.items()):
        if dtype == "image":
            images = [transforms.encode_png(np.array(frame)) for frame in toy.frames(number, side)]
            names = [f"frame-{step:06d}.png" for step in steps]
            columns[key] = pa.array([{"bytes": b, "path": p} for b, p in zip(images, names, strict=True)])
    return pa.table(columns)


def _write_v2(root, version, episodes, rows, cameras, fps, side) -> None:
    for toy, table in zip(episodes, rows, strict=True):
        chunk, stem = f"chunk-{toy.index // 3:03d}", f"episode_{toy.index:06d}"
        _write_parquet(root / f"data/{chunk}/{stem}.parquet", [table])
        for number, (key, dtype) in enumerate(cameras.items()):
            if dtype == "video":
                write_video(root / f"videos/{chunk}/{key}/{stem}.mp4", toy.frames(number, side), fps)
    _write_lines(root / "meta/tasks.jsonl", [{"task_index": i, "task": task} for i, task in enumerate(TASKS)])
    _write_lines(root / "meta/episodes.jsonl", [_episode(toy) for toy in episodes])
    if version == "v2.1":
        _write_lines(
            root / "meta/episodes_stats.jsonl", [{"episode_index": t.index, "stats": {}} for t in episodes]
        )
    else:
        _write_json(root / "meta/stats.json", {})


def _write_v3(root, episodes, rows, cameras, fps, side, per_file, group_per_episode) -> None:
    meta = [
        {
            **_episode(toy),
            "data/chunk_index": 0,
            "data/file_index": i // per_file,
            "dataset_from_index": toy.first,
            "dataset_to_index": toy.first + len(toy),
            f"stats/{STATE}/mean": toy.state.mean(0).tolist(),
        }
        for i, toy in enumerate(episodes)
    ]
    for start in range(0, len(episodes), per_file):
        tables = rows[start : start + per_file]
        path = root / f"data/chunk-000/file-{start // per_file:03d}.parquet"
        _write_parquet(path, tables if group_per_episode else [pa.concat_tables(tables)])
    for number, (key, dtype) in enumerate(cameras.items()):
        if dtype == "video":
            _write_shared_videos(root, key, number, episodes, meta, fps, side, per_file + 1)
    for i in range(0, len(meta), 2):
        _write_parquet(
            root / f"meta/episodes/chunk-000/file-{i // 2:03d}.parquet", [pa.Table.from_pylist(meta[i : i + 2])]
        )
    tasks = pa.table({"task_index": list(range(len(TASKS))), "task": list(TASKS)})
    _write_parquet(root / "meta/tasks.parquet", [tasks])
    _write_json(root / "meta/stats.json", {})


def _write_shared_videos(root, key, number, episodes, meta, fps, side, per_file) -> None:
    for start in range(0, len(episodes), per_file):
        part, at = episodes[start : start + per_file], 0
        for i, toy in enumerate(part, start):
            meta[i] |= {
                f"videos/{key}/chunk_index": 0,
                f"videos/{key}/file_index": start // per_file,
                f"videos/{key}/from_timestamp": at / fps,
                f"videos/{key}/to_timestamp": (at + len(toy)) / fps,
            }
            at += len(toy)
        frames = np.concatenate([toy.frames(number, side) for toy in part])
        write_video(root / f"videos/{key}/chunk-000/file-{start // per_file:03d}.mp4", frames, fps)


def _episode(toy: Toy) -> dict:
    return {"episode_index": toy.index, "tasks": [TASKS[toy.task_index]], "length": len(toy)}


def _write_parquet(path: Path, groups: Sequence[pa.Table]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, groups[0].schema) as writer:
        for table in groups:
            writer.write_table(table)


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=4))


def _write_lines(path: Path, rows: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
