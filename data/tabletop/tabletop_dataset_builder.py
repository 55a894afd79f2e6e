"""The tabletop demonstrations as an RLDS dataset (TFDS, ArrayRecord, no TensorFlow)."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import demonstrations
import numpy as np
import tensorflow_datasets as tfds
import tqdm

_DESCRIPTION = """A scripted expert pushes blocks on a simulated table as an instruction says.

Splits: `train` and `val` for learning from video, `labelled` for the few robot actions.
Step t holds observation t and the action taken in it; the last step is the one that succeeds.
"""


class Tabletop(tfds.core.GeneratorBasedBuilder):
    """Simulates while it writes; `info.metadata` has the recipe and the number of drops."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(
        self, *, recipe: demonstrations.Recipe | None = None, num_workers: int = 2, **kwargs: Any
    ):
        self._recipe = recipe or demonstrations.Recipe()
        self._num_workers = num_workers
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        size = self._recipe.image_size
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION,
            features=_features(size),
            metadata=tfds.core.MetadataDict(recipe=dataclasses.asdict(self._recipe), dropped={}),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in ("train", "val", "labelled")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        dropped = 0
        total = self._recipe.num_episodes(split)
        with tqdm.tqdm(total=total, desc=f"{split} episodes") as progress:

            def on_attempt(success: bool) -> None:
                nonlocal dropped
                dropped += not success
                progress.set_postfix(dropped=dropped)
                progress.update(success)

            for episode in demonstrations.demonstrations(
                self._recipe, split, self._num_workers, on_attempt
            ):
                yield episode["seed"], _example(episode)
        self.info.metadata["dropped"][split] = dropped


def _features(image_size: int) -> tfds.features.FeaturesDict:
    features = tfds.features
    observation = {
        "image": features.Image(shape=(image_size, image_size, 3), encoding_format="png"),
        "effector_translation": features.Tensor(shape=(2,), dtype=np.float32),
    }
    steps = {
        "observation": observation,
        "action": features.Tensor(shape=(2,), dtype=np.float32),
        "reward": np.float32,
        "discount": np.float32,
        "is_first": np.bool_,
        "is_last": np.bool_,
        "is_terminal": np.bool_,
        "language_instruction": features.Text(),
    }
    metadata = {"family": features.Text(), "seed": np.int64, "success": np.bool_}
    return features.FeaturesDict(
        {"steps": features.Dataset(steps), "episode_metadata": metadata}
    )


def _example(episode: dict[str, Any]) -> dict[str, Any]:
    """One simulated episode as an RLDS example; images stay the PNG bytes that they are."""
    last = len(episode["images"]) - 1
    steps = [
        {
            "observation": {"image": image, "effector_translation": episode["effector"][t]},
            "action": episode["actions"][t],
            "reward": episode["rewards"][t],
            "discount": np.float32(t != last),
            "is_first": t == 0,
            "is_last": t == last,
            "is_terminal": t == last,
            "language_instruction": episode["instruction"],
        }
        for t, image in enumerate(episode["images"])
    ]
    metadata = {key: episode[key] for key in ("family", "seed", "success")}
    return {"steps": steps, "episode_metadata": metadata}
