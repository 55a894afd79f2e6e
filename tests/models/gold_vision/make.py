"""Record what transformers makes of images with small random models: features to compare a `VisionTower` with.

    python tests/models/gold_vision/make.py

Needs torch and transformers (no part of this package); recorded with torch 2.13.0 and transformers 5.23.0 on a CPU
(the whole models of image and text with 2.14.1 and 5.24.0).
Each folder is what `save_pretrained` writes, in float16, with `features.npz`: one array for each size of image.
`counts.json`: parameters of published sizes, without those that patch features do not need.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SIZES = ((24, 24), (36, 16), (16, 12))
"""Height and width of the images. The first is what the models are configured for, and the second both larger and
smaller."""

TINY = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, patch_size=4)
IMAGE = dict(image_size=24)
MLP = dict(intermediate_size=32)
TEXT = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=12)
TEXT |= dict(max_position_embeddings=4)
DINO3 = TINY | IMAGE | MLP | dict(num_register_tokens=3)

MODELS = {
    "dinov2": (transformers.Dinov2Model, TINY | IMAGE | dict(mlp_ratio=2)),
    "dinov2_giant": (transformers.Dinov2Model, TINY | IMAGE | dict(mlp_ratio=2, use_swiglu_ffn=True)),
    "dinov2_registers": (
        transformers.Dinov2WithRegistersModel,
        TINY | IMAGE | dict(mlp_ratio=2, num_register_tokens=3, qkv_bias=False),
    ),
    "dinov3": (transformers.DINOv3ViTModel, DINO3),
    "dinov3_gated": (
        transformers.DINOv3ViTModel,
        DINO3 | dict(use_gated_mlp=True, hidden_act="silu", rope_theta=50.0, mlp_bias=False, layer_norm_eps=1e-3),
    ),
    "siglip": (
        transformers.SiglipModel,
        dict(vision_config=TINY | IMAGE | MLP, text_config=TEXT),
    ),
    "siglip2_naflex": (transformers.Siglip2VisionModel, TINY | MLP | dict(num_patches=36, vision_use_head=False)),
    "siglip2_whole": (
        transformers.Siglip2Model,
        dict(vision_config=TINY | MLP | dict(num_patches=36), text_config=TEXT),
    ),
    "clip": (transformers.CLIPVisionModel, TINY | IMAGE | MLP),
    "clip_whole": (
        transformers.CLIPModel,
        dict(vision_config=TINY | IMAGE | MLP, text_config=TEXT, projection_dim=8),
    ),
}

PUBLISHED = {
    "dinov2-small": ("Dinov2", dict(hidden_size=384, num_attention_heads=6, image_size=518)),
    "dinov2-base": ("Dinov2", dict(image_size=518)),
    "dinov2-large": (
        "Dinov2",
        dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=518),
    ),
    "dinov2-giant": (
        "Dinov2",
        dict(hidden_size=1536, num_hidden_layers=40, num_attention_heads=24, image_size=518, use_swiglu_ffn=True),
    ),
    "dinov2-with-registers-base": ("Dinov2WithRegisters", dict(image_size=518, patch_size=14)),
    "dinov3-vits16": ("DINOv3ViT", dict(num_register_tokens=4)),
    "dinov3-vitb16": (
        "DINOv3ViT",
        dict(hidden_size=768, intermediate_size=3072, num_attention_heads=12, num_register_tokens=4),
    ),
    "dinov3-vitl16": (
        "DINOv3ViT",
        dict(
            hidden_size=1024,
            intermediate_size=4096,
            num_attention_heads=16,
            num_hidden_layers=24,
            num_register_tokens=4,
        ),
    ),
    "dinov3-vit7b16": (
        "DINOv3ViT",
        dict(
            hidden_size=4096,
            intermediate_size=8192,
            num_attention_heads=32,
            num_hidden_layers=40,
            num_register_tokens=4,
            use_gated_mlp=True,
            hidden_act="silu",
            query_bias=False,
            value_bias=False,
        ),
    ),
    "siglip-base-patch16-224": ("SiglipVision", dict()),
    "siglip2-so400m-patch14-384": (
        "SiglipVision",
        dict(
            hidden_size=1152,
            intermediate_size=4304,
            num_attention_heads=16,
            num_hidden_layers=27,
            image_size=384,
            patch_size=14,
        ),
    ),
    "siglip2-base-patch16-naflex": ("Siglip2Vision", dict()),
    "clip-vit-large-patch14": (
        "CLIPVision",
        dict(hidden_size=1024, intermediate_size=4096, num_attention_heads=16, num_hidden_layers=24, patch_size=14),
    ),
}


def randomise(model: torch.nn.Module) -> None:
    """All parameters random, norms and scales too, and exact in float16."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 1
        value = noise / fan_in**0.5 if parameter.ndim > 1 else 0.7 + 0.3 * noise
        parameter.data = value.half().float()


def images(height: int, width: int) -> np.ndarray:
    """uint8[2, H, W, 3], the same in the tests."""
    return np.random.RandomState(height * 1000 + width).randint(0, 256, (2, height, width, 3)).astype(np.uint8)


def features(model: torch.nn.Module, image: np.ndarray, processor: dict) -> np.ndarray:
    """float32[2, h, w, D] of the patches."""
    pixels = (image / 255.0 - processor["image_mean"]) / processor["image_std"]
    pixels = torch.tensor(pixels, dtype=torch.float32)
    model = getattr(model, "vision_model", model)
    height, width, size = image.shape[1] // 4, image.shape[2] // 4, model.config.hidden_size
    kind = type(model).__name__
    if kind.startswith("Siglip2Vision"):
        patches = pixels.reshape(2, height, 4, width, 4, 3).permute(0, 1, 3, 2, 4, 5).reshape(2, height * width, -1)
        mask, shapes = torch.ones(2, height * width, dtype=torch.int), torch.tensor([[height, width]] * 2)
        inputs = dict(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=shapes)
    else:
        inputs = dict(pixel_values=pixels.permute(0, 3, 1, 2))
    if kind.startswith(("SiglipVision", "CLIPVision")):
        inputs["interpolate_pos_encoding"] = True
    hidden = model(**inputs).last_hidden_state
    return hidden[:, hidden.shape[1] - height * width :].reshape(2, height, width, size).numpy()


def record(name: str) -> None:
    kind, config = MODELS[name]
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    torch.manual_seed(0)
    model = kind(kind.config_class(**config)).eval()
    randomise(model)
    processor = dict(image_mean=[0.45, 0.5, 0.55], image_std=[0.25, 0.3, 0.35], rescale_factor=1 / 255)
    arrays = {f"{h}x{w}": features(model, images(h, w), processor) for h, w in SIZES}
    model.half().save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    if name == "siglip":  # as large checkpoints come
        shard(folder, weights)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")
    np.savez_compressed(folder / "features.npz", **arrays)
    print(name, sum(f.stat().st_size for f in folder.iterdir()), {k: float(v.std()) for k, v in arrays.items()})


def shard(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    """model.safetensors as two shards and their index."""
    names, index = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), {}
    for i, name in enumerate(names):
        part = dict(list(sorted(weights.items()))[i::2])
        save_file(part, folder / name, metadata={"format": "pt"})
        index |= dict.fromkeys(part, name)
    content = {"metadata": {}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2) + "\n")
    (folder / "model.safetensors").unlink()


def count(kind: str, config: dict) -> dict:
    """A config as brief as those on the hub, and the parameters of the model, less what only hides or pools."""
    unused = r"embeddings.mask_token|head\."
    if kind == "CLIPVision":
        unused += r"|post_layernorm"
    full = getattr(transformers, f"{kind}Config")(**config)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}Model")(full)
    sizes = [p.numel() for name, p in model.named_parameters() if not re.match(unused, name)]
    return dict(config=dict(config, model_type=full.model_type), parameters=sum(sizes))


if __name__ == "__main__":
    with torch.no_grad():
        for model_name in MODELS:
            record(model_name)
    counts = {name: count(*args) for name, args in PUBLISHED.items()}
    (HERE / "counts.json").write_text(json.dumps(counts, indent=1) + "\n")
    print({name: entry["parameters"] for name, entry in counts.items()})
