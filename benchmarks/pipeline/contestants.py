"""Who is measured: each gives batches of frame pairs of the same dataset."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pipeline import dataset

SECONDS = 0.6  # gap between the frames of a pair; 3 steps
_SMALL = 64  # side of the small frames, pixels
_DECODED = 4000  # frames that are decoded once, at most


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process is to do.

    Attributes:
        contestant: a key of CONTESTANTS.
        task: a key of `measure.TASKS`.
        folder: of the dataset.
        cache: where indices are; "" is a new folder that is removed afterwards.
        cores: how many the process is held to.
        split: "full" or "half".
        batch: pairs.
        size: side of the frames, pixels.
        buffer: of tf.data's shuffle, pairs.
        skip: batches to begin after.
        seconds: of one window of measuring.
        pairs: of an epoch.
        share: of the epoch that is run.
    """

    contestant: str
    task: str
    folder: str
    cache: str
    cores: int
    split: str = "full"
    batch: int = 64
    size: int = 256
    buffer: int = 10_000
    skip: int = 0
    seconds: float = 20.0
    pairs: int = 0
    share: float = 1.0


@dataclasses.dataclass(frozen=True)
class Contestant:
    """
    Attributes:
        title: in the tables.
        batches: from the position `Job.skip` on, for ever.
        module: imported before any clock runs.
    """

    title: str
    batches: Callable[[Job], Iterator[Any]]
    module: str = "lapa_jax.data.loader"

    @property
    def tensorflow(self) -> bool:
        """Whether it needs TensorFlow."""
        return self.module == "pipeline.tfdata"


def _ours(form: str, threads: int = 0, workers: int = 0) -> Callable[[Job], Iterator[Any]]:
    """`threads` and `workers` are for each core."""

    def batches(job: Job) -> Iterator[Any]:
        ahead = {"num_threads": max(threads * job.cores, 1), "num_workers": workers * job.cores}
        return _stream(job, open_episodes(job, form), **ahead)

    return batches


def _stream(job: Job, episodes: Any, **order: Any) -> Iterator[Any]:
    from lapa_jax.data import gaps, loader

    stream = loader.frame_pairs(episodes, gaps.Gap(SECONDS), job.batch, image_size=job.size, **order)
    if job.skip:
        stream.set_state({**stream.get_state(), "batches": job.skip})
    return stream


def open_episodes(job: Job, form: str = "tfrecord") -> Any:
    """Episodes of the job's split, through the index in its cache."""
    from lapa_jax.data import rlds

    directory = dataset.directory(Path(job.folder), form)
    return rlds.open_episodes(directory, job.split, rate=dataset.RATE, cache=job.cache)


def _small(decoded: bool) -> Callable[[Job], Iterator[Any]]:
    def batches(job: Job) -> Iterator[Any]:
        job, episodes = dataclasses.replace(job, size=_SMALL), open_episodes(job)
        count = int((episodes.lengths.cumsum() <= _DECODED).sum())
        episodes = episodes.chosen(range(max(count, 1)), "some")
        episodes = episodes.decoded(_SMALL) if decoded else episodes
        return _stream(job, episodes, num_threads=job.cores)

    return batches


def _tf_data(resize: bool) -> Callable[[Job], Iterator[Any]]:
    def batches(job: Job) -> Iterator[Any]:
        from pipeline import tfdata

        tfdata.limit_threads(job.cores)
        gap = round(SECONDS * dataset.RATE)
        skip = job.skip * job.batch
        settings = tfdata.Settings(job.split, gap, job.batch, job.size, job.buffer, resize, skip)
        return tfdata.batches(dataset.directory(Path(job.folder), "tfrecord"), settings)

    return batches


def _folders(job: Job) -> Iterator[Any]:
    from pipeline import folders

    offset, root = round(SECONDS * dataset.RATE), str(Path(job.folder) / dataset.FRAMES)
    return folders.batches(root, offset, job.batch, job.size, job.cores if job.cores > 1 else 0)


def _only_decode(job: Job) -> Iterator[Any]:
    """The frames of one episode after the other, decoded and dropped: what a core could do at most."""
    import simplejpeg

    encoded = [path.read_bytes() for path in sorted((Path(job.folder) / dataset.FRAMES).glob("*0/*"))[:2000]]
    frames = itertools.cycle(encoded)
    while True:
        for image in itertools.islice(frames, 2 * job.batch):
            simplejpeg.decode_jpeg(image)
        yield None


CONTESTANTS = {
    "ours": Contestant("ours, TFRecord as published", _ours("tfrecord", threads=1)),
    "ours_array_record": Contestant("ours, ArrayRecord uncompressed", _ours("array_record", threads=1)),
    "ours_compressed": Contestant("ours, ArrayRecord compressed", _ours("array_record_compressed", threads=1)),
    "ours_processes": Contestant("ours, TFRecord, a process a core", _ours("tfrecord", workers=1)),
    "tf_data": Contestant("(a) tf.data as Octo and OpenVLA", _tf_data(resize=True), "pipeline.tfdata"),
    "tf_data_plain": Contestant("(a′) the same without the resize", _tf_data(resize=False), "pipeline.tfdata"),
    "folders": Contestant("(b) folders of images as official LAPA", _folders, "pipeline.folders"),
    "decode": Contestant("decoding alone, on one core", _only_decode, "simplejpeg"),
    "small": Contestant(f"ours, {_SMALL} px, decoded each time", _small(decoded=False)),
    "small_decoded": Contestant(f"ours, {_SMALL} px, decoded once", _small(decoded=True)),
}
