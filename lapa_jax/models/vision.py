"""Frozen image encoders: one ViT (Dosovitskiy et al. 2021) whose families differ by data.

DINOv2 (Oquab et al. 2023), with registers (Darcet et al. 2023), DINOv3 (Siméoni et al. 2025), SigLIP 1 and 2
(Zhai et al. 2023, Tschannen et al. 2025) and CLIP (Radford et al. 2021), as Hugging Face transformers runs them;
ImageBind (Girdhar et al. 2023). `convert/towers.py` makes the spec and the parameters from a checkpoint.
"""

import functools
from collections.abc import Callable

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from lapa_jax import errors
from lapa_jax.models import resampling
from lapa_jax.sharding import constrain_batch

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(nn.gelu, approximate=True),
    "quick_gelu": lambda x: x * nn.sigmoid(1.702 * x),
    "silu": nn.silu,
}

POSITIONS = (*resampling.RULES, "rope")
"""Learned positions, named by how they follow to another image size; or none, and queries and keys turn."""

DTYPES = ("float32", "bfloat16", "float16")

LINEAR = ("patch_embed", "wq", "wk", "wv", "wo", "up", "up_gate", "down")


class LinearLayers(nn.Module):
    """What makes linear layers alike: `no_bias` names those without bias."""

    no_bias: tuple[str, ...]
    dtype: str

    def dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, use_bias=name not in self.no_bias, dtype=self.dtype, name=name)


class Attention(LinearLayers):
    num_heads: int

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> jax.Array:
        heads = (*x.shape[:2], self.num_heads, x.shape[-1] // self.num_heads)
        q, k, v = (self.dense(x.shape[-1], name)(x).reshape(heads) for name in ("wq", "wk", "wv"))
        if rotation is not None:
            q, k = rotate(q, *rotation), rotate(k, *rotation)
        y = jax.nn.dot_product_attention(q, k, v)
        return self.dense(x.shape[-1], "wo")(y.reshape(x.shape))


class FeedForward(LinearLayers):
    mlp_dim: int
    activation: str
    gated: bool

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        activate, up = ACTIVATIONS[self.activation], self.dense(self.mlp_dim, "up")(x)
        y = activate(self.dense(self.mlp_dim, "up_gate")(x)) * up if self.gated else activate(up)
        return self.dense(x.shape[-1], "down")(y)


class Block(LinearLayers):
    """Pre-norm attention and feed-forward; the signature is what `nn.scan` wants."""

    num_heads: int
    mlp_dim: int
    activation: str
    gated: bool
    layer_scale: bool
    norm_eps: float

    @nn.compact
    def __call__(self, x: jax.Array, rotation: tuple[jax.Array, jax.Array] | None) -> tuple[jax.Array, None]:
        x = constrain_batch(x)
        linear = dict(no_bias=self.no_bias, dtype=self.dtype)
        h = layer_norm("attention_norm", self.norm_eps, self.dtype)(x)
        h = Attention(**linear, num_heads=self.num_heads, name="attention")(h, rotation)
        x = x + self._scaled(h, "attention_scale")
        h = layer_norm("feed_forward_norm", self.norm_eps, self.dtype)(x)
        sizes = dict(mlp_dim=self.mlp_dim, activation=self.activation, gated=self.gated)
        h = FeedForward(**linear, **sizes, name="feed_forward")(h)
        return x + self._scaled(h, "feed_forward_scale"), None

    def _scaled(self, x: jax.Array, name: str) -> jax.Array:
        """LayerScale (Touvron et al. 2021): each branch has a learned factor for each feature."""
        if not self.layer_scale:
            return x
        return x * self.param(name, nn.initializers.ones, (x.shape[-1],)).astype(x.dtype)


class VisionTower(nn.Module):
    """Image to patch features. All attributes are JSON values, so that a spec can live in a config.

    Attributes:
        width, depth, num_heads, mlp_dim: sizes of the transformer.
        patch_size: pixels.
        image_size: pixels a side at which learned positions were trained; any other size of image gets
            them resampled. No meaning for "rope".
        positions: a name of `POSITIONS`.
        activation: a name of `ACTIVATIONS`.
        gated: the feed-forward unit is gated (Shazeer 2020).
        layer_scale: see `Block._scaled`.
        class_token, num_registers: tokens put before the patches, and dropped at the end.
        norm_in, norm_out: whether there is a norm before the first and after the last layer.
        no_bias: names among `LINEAR` of layers without bias.
        norm_eps: epsilon of all norms.
        rope_theta: base of the rotary frequencies.
        mean, std: of each colour, for images in [0, 1].
        dtype: of the computation, a name of `DTYPES`; parameters and features are float32.
    """

    width: int
    depth: int
    num_heads: int
    mlp_dim: int
    patch_size: int
    image_size: int = 224
    positions: str = "bicubic"
    activation: str = "gelu"
    gated: bool = False
    layer_scale: bool = False
    class_token: bool = False
    num_registers: int = 0
    norm_in: bool = False
    norm_out: bool = True
    no_bias: tuple[str, ...] = ()
    norm_eps: float = 1e-6
    rope_theta: float = 100.0
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("no_bias", "mean", "std"):  # lists, when they come from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        super().__post_init__()

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        """float[B, H, W, 3] in [0, 1] -> float32[B, H / patch_size, W / patch_size, width].

        The features are what transformers returns as `last_hidden_state` for the patches.

        Raises:
            UserError: the image is not float, has other channels than 3 or a side that is no multiple of the
                patch; or an attribute makes no sense.
        """
        self._check_spec()
        grid = self._grid(image)
        image = (image.astype(jnp.float32) - jnp.asarray(self.mean)) / jnp.asarray(self.std)
        patch = self.patch_size
        x = einops.rearrange(image, "b (h p) (w q) c -> b (h w) (p q c)", p=patch, q=patch).astype(self.dtype)
        x = nn.Dense(self.width, "patch_embed" not in self.no_bias, self.dtype, name="patch_embed")(x)
        x = self._embed(x, grid)
        if self.norm_in:
            x = layer_norm("norm_in", self.norm_eps, self.dtype)(x)
        x, _ = self._layers()(x, self._rotation(grid))
        x = x[:, self.class_token + self.num_registers :]
        if self.norm_out:
            x = layer_norm("norm_out", self.norm_eps, self.dtype)(x)
        return x.astype(jnp.float32).reshape(len(x), *grid, self.width)

    def _embed(self, x: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """Patches float[B, P, D] with their positions, after the class token (which has one) and registers."""
        prefix = jnp.zeros((0, self.width))
        if length := self.class_token + self.num_registers:
            prefix = jnp.asarray(nn.Embed(length, self.width, name="embed_prefix").embedding)
        if self.positions != "rope":
            side, init = self.image_size // self.patch_size, nn.initializers.normal(0.02)
            place = self.param("place_embedding", init, (self.class_token + side * side, self.width))
            first, places = jnp.split(place, [int(self.class_token)])
            prefix = prefix.at[: len(first)].add(first)
            places = resampling.resample(places.reshape(side, side, -1), grid, self.positions)
            x = x + places.reshape(-1, self.width).astype(x.dtype)
        prefix = jnp.broadcast_to(prefix.astype(x.dtype), (len(x), *prefix.shape))
        return jnp.concatenate([prefix, x], axis=1)

    def _layers(self) -> nn.Module:
        scan = dict(variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=nn.broadcast)
        names = Block.__dataclass_fields__.keys() - {"parent", "name"}
        sizes = {name: getattr(self, name) for name in names}
        return nn.scan(Block, length=self.depth, **scan)(**sizes, name="layers")

    def _rotation(self, grid: tuple[int, int]) -> tuple[jax.Array, jax.Array] | None:
        if self.positions != "rope":
            return None
        angle = axial_angles(grid, self.width // self.num_heads, self.rope_theta)
        angle = np.pad(angle, ((self.class_token + self.num_registers, 0), (0, 0)))  # the prefix does not turn
        return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)

    def _grid(self, image: jax.Array) -> tuple[int, int]:
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise errors.UserError(f"the vision tower got {image.dtype} images: divide them by 255, into [0, 1]")
        height, width, channels = image.shape[1:]
        if channels != 3 or height % self.patch_size or width % self.patch_size:
            raise errors.UserError(
                f"the vision tower got images of {height}x{width}x{channels} and reads patches of "
                f"{self.patch_size}x{self.patch_size}x3: resize them to a multiple of {self.patch_size} px"
            )
        return height // self.patch_size, width // self.patch_size

    def _check_spec(self) -> None:
        for name, known in dict(positions=POSITIONS, activation=ACTIVATIONS, dtype=DTYPES).items():
            if getattr(self, name) not in known:
                raise errors.UserError(
                    f"no vision tower with {name}={getattr(self, name)!r}; choose one of: {', '.join(known)}"
                )
        if unknown := set(self.no_bias) - set(LINEAR):
            raise errors.UserError(f"no_bias={min(unknown)!r} is no layer; these are: {', '.join(LINEAR)}")
        wanted = self.num_heads * (4 if self.positions == "rope" else 1)
        if self.width % wanted:
            raise errors.UserError(f"width={self.width} is no multiple of {wanted} (num_heads={self.num_heads})")


def axial_angles(grid: tuple[int, int], dim: int, theta: float) -> np.ndarray:
    """Angles [rows * columns, dim] of DINOv3's rotary positions, which depend on where in the image a patch is.

    Centres of patches run from -1 to 1 along each axis whatever the size of the image. The first quarter of the
    features turns with the row, the second with the column; the second half repeats the first.
    """
    frequency = 2 * np.pi / theta ** (np.arange(dim // 4) * 4 / dim)
    axes = [2 * (np.arange(size) + 0.5) / size - 1 for size in grid]
    centre = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2, 1)
    return np.tile((centre * frequency).reshape(len(centre), -1), 2)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Turn the pairs (x[i], x[i + dim / 2]) of float[B, L, N, dim] by angles of cos and sin float[L, dim]."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([-second, first], axis=-1)
    return (x * cos[:, None] + turned * sin[:, None]).astype(x.dtype)


def layer_norm(name: str, eps: float, dtype: str) -> nn.LayerNorm:
    """Layer norm with an exact variance."""
    return nn.LayerNorm(eps, dtype=dtype, use_fast_variance=False, name=name)
