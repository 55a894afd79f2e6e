"""Demonstrations in a simulator as an RLDS dataset (TFDS, ArrayRecord, no TensorFlow)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import demonstrations
import environments
import numpy as np
import tensorflow_datasets as tfds
import tqdm

_DESCRIPTION = """{environment}

Splits: `train` and `val` for learning from video, `labelled` for the few robot actions.
Step t holds observation t and the action taken in it; the last step is the one that succeeds.
"""


class Simulated(tfds.core.GeneratorBasedBuilder):
    """Simulates while it writes; `info.metadata` has the recipe, what the environment declares of its numbers, and
    the number of drops."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}

    def __init__(
        self, *, recipe: demonstrations.Recipe | None = None, num_workers: int = 2, **kwargs: Any
    ):
        self._recipe = recipe or demonstrations.Recipe()
        self.name = self._recipe.name  # TFDS would take that of the class
        self._num_workers = num_workers
        self._declared = demonstrations.declared(self._recipe)
        kwargs.setdefault("file_format", "array_record")
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        recipe, declared = dataclasses.asdict(self._recipe), self._declared
        entry = environments.named(self._recipe.environment)
        return tfds.core.DatasetInfo(
            builder=self,
            description=_DESCRIPTION.format(environment=entry.description),
            features=_features(self._recipe.image_size, declared),
            metadata=tfds.core.MetadataDict(
                recipe=recipe, env_splits=dict(entry.splits), declared=declared, dropped={}
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in environments.SPLITS}

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
                yield episode["seed"], _example(episode, self._declared["proprio"]["parts"])
        self.info.metadata["dropped"][split] = dropped


def _features(image_size: int, declared: Mapping[str, Any]) -> tfds.features.FeaturesDict:
    features = tfds.features
    proprio = {
        name: features.Tensor(shape=(len(columns),), dtype=np.float32)
        for name, columns in declared["proprio"]["parts"].items()
    }
    steps = {
        "observation": {
            "image": features.Image(shape=(image_size, image_size, 3), encoding_format="png"), **proprio
        },
        "action": features.Tensor(shape=(len(declared["action_space"]["names"]),), dtype=np.float32),
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


def _example(episode: dict[str, Any], parts: Mapping[str, list[str]]) -> dict[str, Any]:
    """One simulated episode as an RLDS example; images stay the PNG bytes that they are."""
    last = len(episode["images"]) - 1
    proprio = demonstrations.columns(episode["proprio"], parts)
    steps = [
        {
            "observation": {"image": image, **{name: rows[t] for name, rows in proprio.items()}},
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
