"""LLaMA of transformers, in PyTorch, as a contestant: eager, attention by `sdpa`, AdamW in one kernel."""

from typing import Any

import numpy as np
import torch
import transformers

from race import products
from race.turns import timed
from vlm_speed import sizes
from vlm_speed.job import BATCHES, BETAS, CLIP_NORM, LEARNING_RATE, Job


class Transformers:
    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        transformers.utils.logging.set_verbosity_error()
        if not job.weights.exists():
            torch.manual_seed(0)
            transformers.LlamaForCausalLM(_config(job.sizes)).save_pretrained(job.weights)
        self.model = transformers.LlamaForCausalLM.from_pretrained(job.weights, attn_implementation="sdpa")
        self.model.generation_config.eos_token_id = None
        self.tokens = torch.from_numpy(sizes.rows(job.sizes, job.rows)).long()
        self.latents = self.tokens.clone()
        self.latents[:, : -sizes.CODES] = -100
        self.prompts = {count: torch.from_numpy(sizes.prompts(job.sizes, count)).long() for count in BATCHES}
        self._adam = torch.optim.AdamW(
            self.model.parameters(), LEARNING_RATE, BETAS, weight_decay=0.0, fused=True
        )

    def about(self) -> dict[str, Any]:
        return {"torch": torch.__version__, "transformers": transformers.__version__}

    def logits(self) -> np.ndarray:
        """float32[prompt, V] of the first prompt."""
        with torch.inference_mode():
            return self.model(self.prompts[1]).logits[0].numpy()

    def generate(self, count: int) -> np.ndarray:
        """int[count, CODES], the likeliest after each prompt."""
        prompt = self.prompts[count]
        with torch.inference_mode():
            found = self.model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=sizes.CODES,
                do_sample=False,
                pad_token_id=0,
            )
        return found[:, prompt.shape[1] :].numpy()

    def losses(self, steps: int) -> list[tuple[float, float]]:
        """(loss, gradient norm) of training steps."""
        return [tuple(one.item() for one in self._step(self.tokens)) for _ in range(steps)]

    def train(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self._step(self.tokens)[0].item(), steps)

    def train_latents(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self._step(self.latents)[0].item(), steps)

    def generate_1(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self.generate(1), steps)

    def generate_16(self, steps: int) -> tuple[float, float]:
        return timed(lambda: self.generate(16), steps)

    def product(self) -> float:
        return products.by_torch()

    def _step(self, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self._adam.zero_grad()
        loss = self.model(self.tokens, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self._adam.step()
        return loss, norm


def _config(size: sizes.Sizes) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=size.vocab,
        hidden_size=size.width,
        intermediate_size=size.mlp_dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.num_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
