"""The PyTorch network as a contestant: run as it is, or compiled."""

from typing import Any

import numpy as np
import torch

from laq_speed import sizes
from laq_speed.job import BETAS, CLIP_NORM, LEARNING_RATE, Job
from laq_torch import model
from race import products
from race.turns import timed


class Eager:
    """As the official code trains and labels: op by op, in the order written."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
        self.job, self.network = job, model.LAQ(job.sizes)
        frames = torch.from_numpy(sizes.batch(job.sizes, job.batch))
        self.video = frames.permute(1, 4, 0, 2, 3).contiguous()
        if not job.weights.exists():
            self._write_weights()
        with np.load(job.weights) as state:
            self.network.load_state_dict({key: torch.from_numpy(state[key]) for key in state.files})
        self._forward, self._label = self.network.forward, self.network.label
        self._adam = torch.optim.Adam(self.network.parameters(), LEARNING_RATE, BETAS)

    def codes(self) -> np.ndarray:
        """int[B, N]."""
        return self._codes().numpy()

    def losses(self, noise: np.ndarray) -> list[tuple[float, float]]:
        """(loss, gradient norm) of training steps with that noise float32[steps, B, N, D]."""
        found = (self._step(torch.from_numpy(one).flatten(0, 1)) for one in noise)
        return [(loss.item(), norm.item()) for loss, norm in found]

    def train(self, steps: int) -> tuple[float, float]:
        shape = (self.job.batch * sizes.CODE_LENGTH, self.job.sizes.code_dim)
        return timed(lambda: self._step(torch.randn(shape))[0].item(), steps)

    def label(self, steps: int) -> tuple[float, float]:
        return timed(self._codes, steps)

    def product(self) -> float:
        return products.by_torch()

    def about(self) -> dict[str, Any]:
        return {"torch": torch.__version__}

    def _codes(self) -> torch.Tensor:
        with torch.inference_mode():
            return self._label(self.video)

    def _step(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._adam.zero_grad()
        loss, _ = self._forward(self.video, noise)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP_NORM)
        self._adam.step()
        return loss, norm

    @torch.inference_mode()
    def _write_weights(self) -> None:
        """As the model begins, but with a codebook among this batch's latents, so that many codes occur."""
        quantizer = self.network.vq
        latents = quantizer.difference(*self.network.encode(self.video)[:2])
        noise = torch.randn(self.job.sizes.num_codes, latents.shape[1])
        quantizer.codebooks.copy_(latents.mean(0) + latents.std(0) * noise)
        np.savez(self.job.weights, **{key: value.numpy() for key, value in self.network.state_dict().items()})


class Compiled(Eager):
    """Through torch.compile."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._forward, self._label = torch.compile(self._forward), torch.compile(self._label)
