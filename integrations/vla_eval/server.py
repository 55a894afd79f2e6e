# /// script
# requires-python = ">=3.11,<3.12"
# dependencies = ["vla-eval>=0.8,<0.9", "lapa_jax"]
#
# [tool.uv.sources]
# lapa_jax = { path = "../..", editable = true }
# ///
"""A model server for allenai/vla-evaluation-harness (PyPI: vla-eval): our checkpoints on its benchmarks.

    vla-eval serve --config integrations/vla_eval/libero.yaml
    python integrations/vla_eval/server.py --args.checkpoint=runs/finetune --args.benchmark=libero --port=8001

The harness runs it with `uv run`, which reads the block above; what its benchmarks send is `conventions.py`.
"""

from typing import Any

import conventions
import numpy as np
from vla_eval import rotation as rotations
from vla_eval.model_servers.base import SessionContext
from vla_eval.model_servers.predict import PredictModelServer
from vla_eval.model_servers.serve import run_server
from vla_eval.specs import DimSpec

from lapa_jax import policy
from lapa_jax.errors import UserError, in_one_line

TO_MATRIX = {"axis_angle": rotations.axisangle_to_matrix, "euler_xyz": rotations.euler_xyz_to_matrix}
FROM_MATRIX = {
    "axis_angle": lambda matrix: rotations.quat_to_axisangle(rotations.matrix_to_quat(matrix)),
    "euler_xyz": rotations.matrix_to_euler_xyz,
}


class LapaModelServer(PredictModelServer):
    """Serves one policy to as many simulators as connect, in batches where several wait.

    Args:
        checkpoint: folder of a finetune run.
        benchmark: a name in `conventions.BENCHMARKS`.
        gripper: what the policy's gripper number means, a name in `conventions.GRIPPERS`; None: as the
            checkpoint declares.
        rotation: what the policy's rotations are, a name in `conventions.ROTATIONS`; they are turned into the
            benchmark's. None: they go as they are.
        cameras: camera of the policy -> camera of the benchmark; None: as the benchmark's row says.
        chunk_size: actions carried out before the policy looks again; None: its whole chunk, or as many as a
            policy that is told its last latents was trained with.
        max_batch_size: most observations in one call of the policy.
        max_wait_time: seconds to wait for a batch to fill, once a call is over.

    Raises UserError for a checkpoint and a benchmark that do not fit each other.
    """

    def __init__(
        self,
        checkpoint: str,
        benchmark: str = "libero",
        *,
        gripper: str | None = None,
        rotation: str | None = None,
        cameras: dict[str, str] | None = None,
        chunk_size: int | None = None,
        max_batch_size: int = 1,
        max_wait_time: float = 0.01,
    ) -> None:
        self.policy = policy.Policy.from_checkpoint(checkpoint)
        self.metadata = self.policy.metadata
        chunk_size = conventions.chunk(self.metadata, chunk_size)
        if max_batch_size < 1:
            raise UserError(f"max_batch_size={max_batch_size}: a batch has at least one observation")
        self.benchmark = conventions.named(benchmark, cameras)
        conventions.check(self.benchmark, self.metadata)
        self.gripper = conventions.declared_gripper(self.benchmark, self.metadata, gripper)
        self.rotation = conventions.declared_rotation(self.benchmark, rotation)
        self._latents: dict[str, np.ndarray] = {}  # session -> int32[N] of its last look
        self._read: set[str] = set()  # instructions that the policy can read
        super().__init__(chunk_size=chunk_size, max_batch_size=max_batch_size, max_wait_time=max_wait_time)
        self._warm_up()

    def get_observation_params(self) -> dict[str, Any]:
        return conventions.requests(self.benchmark, self.metadata)

    def get_action_spec(self) -> dict[str, DimSpec]:
        return {name: DimSpec(name, *spec) for name, spec in self.benchmark.action.items()}

    def get_observation_spec(self) -> dict[str, DimSpec]:
        names = [self.benchmark.cameras[camera] for camera in self.metadata["cameras"]]
        spec = {name: DimSpec(name, *conventions.IMAGE) for name in names}
        spec["language"] = DimSpec("language", *conventions.LANGUAGE)
        if self.metadata["proprio_dim"]:
            spec["state"] = DimSpec("state", *self.benchmark.state_format)
        return spec

    async def on_observation(self, obs: dict[str, Any], ctx: SessionContext) -> None:
        """Checks one session's observation before it shares a batch with others; a bad one is that session's error.

        While a chunk is being carried out the observation is not looked at. `episode_restart` (CALVIN's next
        instruction) ends the chunk: what is left of it was planned for the last one.
        """
        if obs.get("episode_restart"):
            self._chunk_buffers.pop(ctx.session_id, None)
            self._latents.pop(ctx.session_id, None)
        chunk = self._chunk_buffers.get(ctx.session_id)
        if not chunk or chunk.empty:
            obs = conventions.observed(self.benchmark, self.metadata, obs)
            if obs["instruction"] not in self._read:  # one that is too long would fail all of its batch
                self.policy.batch_of(obs)
                self._read.add(obs["instruction"])
        await super().on_observation(obs, ctx)

    async def on_episode_start(self, config: dict[str, Any], ctx: SessionContext) -> None:
        self._latents.pop(ctx.session_id, None)
        await super().on_episode_start(config, ctx)

    async def on_episode_end(self, result: dict[str, Any], ctx: SessionContext) -> None:
        self._latents.pop(ctx.session_id, None)
        await super().on_episode_end(result, ctx)

    def predict_batch(
        self, obs_batch: list[dict[str, Any]], ctx_batch: list[SessionContext]
    ) -> list[dict[str, Any]]:
        """Chunks float32[horizon, A], one a session, in the benchmark's conventions."""
        sessions = [ctx.session_id for ctx in ctx_batch]
        seen = [{**obs, **self._remembered(one)} for obs, one in zip(obs_batch, sessions, strict=True)]
        actions: dict[int, np.ndarray] = {}
        for rows in conventions.alike(seen):
            batch = conventions.stacked([seen[row] for row in rows], _rounded(len(rows), self.max_batch_size))
            answer = self.policy.infer(batch)
            given = conventions.translated(self.benchmark, self.gripper, answer["actions"][: len(rows)])
            if self.rotation is not None:
                given[..., 3:6] = turned(given[..., 3:6], self.rotation, self.benchmark.rotation)
            actions |= zip(rows, given, strict=True)
            if self.metadata["history"]:
                self._latents |= zip((sessions[row] for row in rows), answer["latents"], strict=False)
        return [{"actions": actions[row]} for row in range(len(seen))]

    def _remembered(self, session: str) -> dict[str, np.ndarray]:
        """The latents of a session's last look; -1 before its first."""
        if not self.metadata["history"]:
            return {}
        return {conventions.LAST: self._latents.get(session, np.full(self.metadata["code_length"], -1, np.int32))}

    def _warm_up(self) -> None:
        """Compiles every batch that will occur, before the first client connects."""
        blank = np.zeros((self.metadata["image_size"],) * 2 + (3,), np.uint8)
        one: dict[str, Any] = {camera: blank for camera in self.metadata["cameras"]} | {"instruction": "wait"}
        if self.metadata["proprio_dim"]:
            one["proprio"] = np.zeros(self.metadata["proprio_dim"], np.float32)
        one |= self._remembered("")
        for size in sorted({_rounded(n, self.max_batch_size) for n in range(1, self.max_batch_size + 1)}):
            self.policy.infer(conventions.stacked([one], size))


def turned(rotations: np.ndarray, given: str, taken: str) -> np.ndarray:
    """float[..., 3] in radians from one of `conventions.ROTATIONS` to another."""
    matrices = [TO_MATRIX[given](one) for one in rotations.reshape(-1, 3)]
    return np.reshape([FROM_MATRIX[taken](one) for one in matrices], rotations.shape)


def _rounded(count: int, most: int) -> int:
    """The batch that `count` observations are padded to: a power of two, so that few programs are compiled."""
    return min(most, 1 << (count - 1).bit_length())


if __name__ == "__main__":
    with in_one_line():
        run_server(LapaModelServer)
