"""Record what ImageBind's image trunk makes of images with random numbers: a toy of the released layout.

    python tests/models/gold_vision/make_imagebind.py

Needs torch (no part of this package); recorded with torch 2.14.1 on a CPU. The trunk is stated anew here from
torch's own layers: `nn.Conv3d` over the image twice, `nn.MultiheadAttention`, `nn.LayerNorm`, `nn.GELU`.
`imagebind.pth` is what torch.save makes of its state dict and of a few tensors of the other modalities.
"""

import math
from pathlib import Path

import numpy as np
import torch
from make import images
from torch import nn

HERE = Path(__file__).parent / "imagebind"
SIZES = ((24, 24), (36, 36), (12, 12))
"""Height and width of the images; the source resamples positions for squares only."""
WIDTH, DEPTH, HEADS, PATCH, SIDE = 32, 2, 16, 4, 24
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

OTHERS = {
    "modality_preprocessors.text.pos_embed": (1, 7, 4),
    "modality_preprocessors.text.token_embedding.weight": (9, 4),
    "modality_preprocessors.audio.rgbt_stem.norm_layer.weight": (4,),
    "modality_preprocessors.depth.cls_token": (1, 1, 4),
    "modality_preprocessors.imu.imu_stem.proj.weight": (4, 6),
    "modality_trunks.audio.blocks.0.attn.bias_k": (1, 1, 4),
    "modality_trunks.text.blocks.0.attn.in_proj_weight": (12, 4),
    "modality_trunks.thermal.blocks.11.mlp.fc1.bias": (16,),
    "modality_heads.text.proj.1.weight": (8, 4),
    "modality_heads.imu.3.weight": (8, 4),
    "modality_postprocessors.depth.1.log_logit_scale": (),
}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, HEADS)
        self.norm_1, self.norm_2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.mlp = nn.Sequential()
        self.mlp.add_module("fc1", nn.Linear(WIDTH, 4 * WIDTH))
        self.mlp.add_module("act", nn.GELU())
        self.mlp.add_module("fc2", nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[tokens, images, WIDTH], the order of axes that torch's attention has by itself."""
        seen = self.norm_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        return x + self.mlp(self.norm_2(x))


class Vision(nn.Module):
    """The trunk for images, and a head that nothing is asked of; modules are named as the released tensors are."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Conv3d(3, WIDTH, (2, PATCH, PATCH), (2, PATCH, PATCH), bias=False)
        helper, vision = nn.Module(), nn.Module()
        helper.pos_embed = nn.Parameter(torch.zeros(1, 1 + (SIDE // PATCH) ** 2, WIDTH))
        vision.cls_token, vision.pos_embedding_helper = nn.Parameter(torch.zeros(1, 1, WIDTH)), helper
        vision.rgbt_stem = nn.ModuleDict({"proj": nn.Sequential(nn.Identity(), stem)})
        trunk = nn.ModuleDict({"pre_transformer_layer": nn.Sequential(nn.LayerNorm(WIDTH, eps=1e-6))})
        trunk["blocks"] = nn.Sequential(*(Block() for _ in range(DEPTH)))
        head = nn.Sequential(nn.LayerNorm(WIDTH, eps=1e-6), nn.Identity(), nn.Linear(WIDTH, 8, bias=False))
        self.modality_preprocessors = nn.ModuleDict({"vision": vision})
        self.modality_trunks = nn.ModuleDict({"vision": trunk})
        self.modality_heads = nn.ModuleDict({"vision": head})

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """[images, 3, H, W] -> what the trunk gives for all tokens, [images, 1 + patches, WIDTH]."""
        vision, trunk = self.modality_preprocessors["vision"], self.modality_trunks["vision"]
        x = vision.rgbt_stem["proj"](torch.stack([pixels, pixels], dim=2)).flatten(2).transpose(1, 2)
        x = torch.cat([vision.cls_token.expand(len(x), -1, -1), x], dim=1) + places(vision, x.shape[1])
        x = trunk["pre_transformer_layer"](x).transpose(0, 1)
        return trunk["blocks"](x).transpose(0, 1)


def places(vision: nn.Module, count: int) -> torch.Tensor:
    """Positions of the class token and `count` patches, by a factor as the source resamples them."""
    first, grid = vision.pos_embedding_helper.pos_embed.split([1, (SIDE // PATCH) ** 2], dim=1)
    if count != grid.shape[1]:
        square = grid.reshape(1, SIDE // PATCH, SIDE // PATCH, WIDTH).permute(0, 3, 1, 2)
        factor = math.sqrt(count / grid.shape[1])
        grid = nn.functional.interpolate(square, scale_factor=factor, mode="bicubic").flatten(2).transpose(1, 2)
    return torch.cat([first, grid], dim=1)


def randomised(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Matrices of gain 1, and vectors around 0.7, as norms and biases."""
    noise = torch.randn(shape, generator=generator)
    return noise / math.prod(shape[1:]) ** 0.5 if len(shape) > 1 else 0.7 + 0.3 * noise


def record() -> None:
    HERE.mkdir(exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    model = Vision().eval()
    for name, parameter in model.named_parameters():
        scale = 2e-3 if "preprocessors" in name else 1.0  # so small that the epsilon of the first norm shows
        parameter.data = scale * randomised(tuple(parameter.shape), generator)
    arrays = {}
    for height, width in SIZES:
        pixels = (images(height, width) / 255 - MEAN) / STD
        found = model(torch.tensor(pixels, dtype=torch.float32).permute(0, 3, 1, 2))
        grid = (height // PATCH, width // PATCH)
        arrays[f"{height}x{width}"] = found[:, 1:].reshape(2, *grid, WIDTH).numpy()
    state = model.state_dict()
    state |= {name: randomised(shape, generator) for name, shape in OTHERS.items()}
    state["modality_preprocessors.text.mask"] = torch.full((7, 7), -math.inf).triu(1)
    torch.save(state, HERE / "imagebind.pth")
    np.savez_compressed(HERE / "features.npz", **arrays)
    print(sum(f.stat().st_size for f in HERE.iterdir()), {k: float(v.std()) for k, v in arrays.items()})


if __name__ == "__main__":
    with torch.no_grad():
        record()
