"""The loader of official LAPA (laq/laq_model/data.py), written anew with Pillow and NumPy.

A clip is a folder of images. One example: a random clip, its folder listed and sorted, a random first frame,
the second `offset` images later or the last one; both opened with Pillow, resized to 256 x 256 where they
are not (Pillow leaves others as they are) and turned to float32[3, H, W] in 0..1. Several workers are processes
that hand batches over in shared memory, as PyTorch's DataLoader has them.
"""

import multiprocessing
import os
import random
from collections.abc import Iterator
from multiprocessing import shared_memory
from typing import Any

import numpy as np
from PIL import Image

_AHEAD = 2  # batches a worker prepares, as DataLoader's prefetch_factor


def batches(folder: str, offset: int, batch: int, size: int, workers: int) -> Iterator[np.ndarray]:
    """float32[B, 3, 2, H, W], for ever; with `workers` > 0 a batch is valid until the next is asked for."""
    clips = os.listdir(folder)
    if not workers:
        while True:
            yield np.stack([_example(folder, clips, offset, size) for _ in range(batch)])
    yield from _from_workers((folder, clips, offset, size), (batch, 3, 2, size, size), workers)


def _example(folder: str, clips: list[str], offset: int, size: int) -> np.ndarray:
    clip = os.path.join(folder, random.choice(clips))
    names = sorted(os.listdir(clip), key=lambda name: int(name.split(".")[0][4:]))
    first = random.randint(0, len(names) - 1)
    second = min(first + offset, len(names) - 1)
    frames = [_frame(os.path.join(clip, names[i]), size) for i in (first, second)]
    return np.stack(frames, axis=1)


def _frame(path: str, size: int) -> np.ndarray:
    with Image.open(path) as image:
        image = image.convert("RGB") if image.mode != "RGB" else image
        pixels = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)).astype(np.float32) / 255


def _from_workers(what: tuple[Any, ...], shape: tuple[int, ...], workers: int) -> Iterator[np.ndarray]:
    context = multiprocessing.get_context("fork")
    size = int(np.prod(shape)) * 4
    blocks = [shared_memory.SharedMemory(create=True, size=size) for _ in range(workers * _AHEAD)]
    arrays = [np.ndarray(shape, np.float32, block.buf) for block in blocks]
    ready: Any = context.Queue()
    empty = [context.SimpleQueue() for _ in range(workers)]
    processes = [
        context.Process(target=_work, args=(what, arrays, empty[w], ready, w), daemon=True) for w in range(workers)
    ]
    try:
        for slot in range(len(blocks)):
            empty[slot % workers].put(slot)
        for process in processes:
            process.start()
        while True:
            slot = ready.get()
            yield arrays[slot]
            empty[slot % workers].put(slot)
    finally:
        for process in processes:
            process.terminate()
        del arrays
        for block in blocks:
            block.unlink()


def _work(what: tuple[Any, ...], arrays: list[np.ndarray], empty: Any, ready: Any, seed: int) -> None:
    random.seed(seed)
    while True:
        slot = empty.get()
        for row in arrays[slot]:
            row[:] = _example(*what)
        ready.put(slot)
