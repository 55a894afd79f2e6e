"""Stage 2. `base` is the paper's 7B trunk over vision tokens (LWM-Chat-1M's geometry); `demo` and
`full` are a small trunk with a conv image stem for two CPU cores; `tiny` is what tests run.

    python experiments/pretrain_vlm.py --config=experiments/configs/pretrain_vlm.py:demo \
        --workdir=runs/demo/vlm --config.data.latents=runs/demo/latents
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

STEM = dict(channels=32, num_heads=4, keypoints=32)


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 256
    config.num_steps = 70_000
    config.model = dict(
        size="7b",  # trunk, see lapa_jax/models/llama.py SIZES
        vocabs=dict(text=32_000, vision=8448, latent=8),  # rows of each embedding table
        heads=("latent", "text", "vision"),  # tables with an output head
        num_image_tokens=257,  # 256 VQGAN codes and the end-of-vision token
        code_length=4,  # latent tokens a transition
        remat="full",
        theta=5e7,  # base of the rotary frequencies
        dtype="bfloat16",  # of the computation; parameters are float32
        image_stem=placeholder(ConfigDict),  # None: images are vision tokens
    )
    config.optimizer = common.get_optimizer(
        learning_rate=2e-5, end_learning_rate=2e-5, warmup_steps=0, b2=0.95, weight_decay=0.0, clip_norm=1.0
    )
    config.data = common.get_data()
    config.data.latents = placeholder(str)  # folder of a label_latents run
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.text_length = 32  # tokens an instruction may have
    config.data.blank_instruction_rate = 0.1  # so that an image alone is not out of its depth
    config.evaluation = dict(steps=2000)  # held-out steps at the end
    if size != "base":
        del config.model.image_stem
        config.model.image_stem = dict(STEM)
        del config.model.vocabs
        config.model.vocabs = dict(text=0, latent=8)  # 0: as many as the tokenizer of the dataset has
        config.update(
            model=dict(
                size="demo", heads=("latent",), num_image_tokens=15, code_length=1, remat="none",
                theta=1e4, dtype="float32",
            ),
            batch_size=64,
            optimizer=dict(
                learning_rate=2e-3, end_learning_rate=2e-5, warmup_steps=100, b2=0.99, weight_decay=0.01
            ),
            data=dict(image_size=64, text_length=14, decode_once=True),
        )
    return common.resize(config, size, SIZES)


SIZES = {
    "base": {},
    "full": dict(num_steps=4500),
    "demo": dict(num_steps=1300),
    "tiny": dict(
        num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2),
        model=dict(size="debug", image_stem=dict(channels=8)), evaluation=dict(steps=32),
    ),
}
