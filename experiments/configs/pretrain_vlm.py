"""Stage 2. `base` is the paper's 7B trunk over vision tokens (LWM-Chat-1M's geometry) and `official` the same with
the token layout, losses and rounded positions that the published weights were trained with; `demo` and `full` are a
small trunk for two CPU cores; `tiny` is what tests run.

    python experiments/pretrain_vlm.py --config=experiments/configs/pretrain_vlm.py:demo \
        --workdir=runs/demo/vlm --config.data.latents=runs/demo/latents
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 256
    config.num_steps = 70_000
    config.model = dict(
        size="7b",  # trunk, see lapa_jax/models/llama.py SIZES; None where init.path says it
        trunk=placeholder(ConfigDict),  # its keyword arguments, over those of the size; set by init.path
        lora=dict(rank=0, alpha=16.0, layers="attention|feed_forward"),  # thin matrices; rank 0: none
        vocabs=dict(text=32_000, vision=8448, latent=8, action=0),  # rows of each table; 0: as many as are needed
        heads=("latent", "text", "vision"),  # tables with an output head
        image="tokens",  # or "features" of a frozen encoder, or "stem", pixels
        image_stem=dict(channels=32, num_heads=4, keypoints=32),  # of image="stem", trained with the trunk
        projector=dict(hidden=0),  # of image="features"; units between its two layers, 0: the trunk's width
        remat="dots",  # what the backward pass keeps: dots|attention|full (nothing)|none (all); docs/scale.md
        theta=5e7,  # base of the rotary frequencies
        attention=placeholder(str),  # None: "xla"; or "cudnn", "splash", "ring" (docs/text-models.md)
        rope="exact",  # or "bfloat16", the rounded table of the published weights
        rope_length=2048,  # positions in that table
        dtype="bfloat16",  # of the computation; parameters are float32
        residual_dtype="float32",  # of what runs along the trunk
    )
    config.init = dict(  # where parameters begin; see docs/vlm.md
        path=placeholder(str),  # official params, a text model's folder, or a pretrain_vlm run; None: at random
        new="lora_|(embed|head)_latent|project/|stem/",  # paths that begin anew where they are not there
        ignore="",  # regular expression of paths there that are left alone
        num_heads=placeholder(int),  # of an official file whose sizes are not LLaMA's
    )
    config.encoder = dict(  # frozen, for image="tokens" or "features"
        path=placeholder(str),  # a train_tokenizer or convert_vqgan run, or a vision tower (docs/vision-towers.md)
        dtype="float32",  # of a tower's computation
        pool=1,  # features are averaged over squares of so many cells a side
        resize="antialias",  # or "official": frames as the published models were shown them
    )
    config.text = dict(path=placeholder(str))  # tokenizer.model or a tokenizer's folder; None: words of the dataset
    config.layout = "clean"  # or "official"; see docs/vlm.md
    config.loss_weights = dict(latent=1.0, text=0.0)  # of each vocabulary's cross-entropy
    config.optimizer = common.get_optimizer(
        learning_rate=2e-5, end_learning_rate=2e-5, warmup_steps=0, b2=0.95, weight_decay=0.0, clip_norm=1.0
    )
    config.data = common.get_data()
    config.data.latents = placeholder(str)  # folder of a label_latents run
    config.data.encoded = placeholder(str)  # folder of an encode_frames run of the same encoder; None: on the way
    config.data.laq = placeholder(str)  # or folder of a train_laq run, which labels on the way
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.text_length = 32  # tokens an instruction may have
    config.data.row_length = placeholder(int)  # places in a row; None: as the longest example
    config.data.packed = False  # several examples share a row of row_length places
    config.data.blank_instruction_rate = 0.1  # so that an image alone is not out of its depth
    config.evaluation = dict(steps=2000)  # held-out steps at the end
    if size == "official":
        config.update(
            layout="official", loss_weights=dict(latent=0.99, text=0.01), model=dict(rope="bfloat16"),
            encoder=dict(resize="official"),
            data=dict(text_length=128, row_length=384, blank_instruction_rate=0.0),
        )
    elif size != "base":
        config.update(
            model=dict(
                size="demo", vocabs=dict(text=0, vision=0, latent=0), heads=("latent",), image="stem",
                remat="none", theta=1e4, dtype="float32",
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
    "official": {},
    "full": dict(num_steps=4500),
    "demo": dict(num_steps=1300),
    "tiny": dict(
        num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2),
        model=dict(size="debug", image_stem=dict(channels=8)), evaluation=dict(steps=32),
    ),
}
