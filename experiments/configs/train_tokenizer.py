"""The image tokenizer. `base` is the published network (146M parameters, 256 px to 256 codes of 8192) with a
codebook that stays alive; `demo` and `full` are a small one (64 px to 64 codes of 512) for two CPU cores; `tiny` is
what tests run. No size has an adversarial loss.

    python experiments/train_tokenizer.py --config=experiments/configs/train_tokenizer.py:demo \
        --workdir=runs/demo/tokenizer
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common
from lapa_jax.models import vqgan


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 64
    config.num_steps = 100_000
    config.model = dict(
        **vqgan.SIZES["base"],
        quantizer="vq_ema",  # or "vq", by gradient
        quantizers=dict(  # what each has to set; only the chosen one's are read
            vq=dict(revive="data", commitment=0.25, whiten=False),
            vq_ema=dict(revive="data", commitment=0.25, whiten=False, decay=0.99),
        ),
        dtype="float32",  # of the convolutions
    )
    config.loss = dict(
        squared=1.0,  # weight of the squared error, images in [-1, 1]
        absolute=0.2,  # weight of the absolute error, which keeps edges
        perceptual=0.0,  # weight of the squared error in the tower's features
    )
    config.tower = dict(path=placeholder(str), dtype="float32")  # frozen image encoder; docs/vision-towers.md
    config.optimizer = common.get_optimizer(
        learning_rate=1e-4, end_learning_rate=1e-5, warmup_steps=1000, b1=0.9, b2=0.99,
        weight_decay=0.0, clip_norm=1.0,
    )
    config.data = common.get_data()
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.evaluation = dict(frames=2000)  # held-out frames at the end
    if size != "base":
        config.update(
            model=vqgan.SIZES["small"],
            batch_size=32,
            optimizer=dict(learning_rate=1e-3, end_learning_rate=1e-4, warmup_steps=50),
            data=dict(image_size=64, decode_once=True),
        )
    return common.resize(config, size, SIZES)


SIZES = {
    "base": {},
    "full": dict(num_steps=3000),
    "demo": dict(num_steps=600),
    "tiny": dict(
        model=vqgan.SIZES["tiny"], num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2),
        data=dict(image_size=32), evaluation=dict(frames=16),
    ),
}
