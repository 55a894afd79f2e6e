"""Stage 1. `base` is the official LAQ (344M parameters; NSVQ; LAPA laq/train_sthv2.py); `demo` and
`full` are the small conv LAQ for two CPU cores; `tiny` is what tests run.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

CONV = dict(
    backbone="conv",
    backbone_args=dict(width=32, depth=1, patch_size=4),
    quantizer="fsq",
    levels=(4, 2),  # cells a dimension; their product is num_codes
    code_length=1,
)


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 64
    config.num_steps = 100_000
    config.model = dict(
        backbone="transformer",
        backbone_args=ConfigDict(
            dict(
                width=1024, depth_spatial=8, depth_temporal=8, num_heads=16, head_dim=64,
                patch_size=32, image_size=256, legacy=False, remat=False,
            )
        ),
        quantizer="nsvq",
        levels=(2, 2, 2),
        soft_steps=0,  # FSQ only: steps over which quantisation is phased in
        num_codes=8,  # codes a token
        code_length=4,  # tokens a transition
        code_dim=32,  # NSVQ only
    )
    config.loss = dict(change_weight=0.0)  # extra weight of pixels that change; 0 is plain MSE
    config.optimizer = dict(
        learning_rate=1e-4, end_learning_rate=1e-4, warmup_steps=0, b1=0.9, b2=0.99,
        weight_decay=0.0, clip_norm=0.5,
    )
    config.data = common.get_data()
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.gap = 0.6  # seconds between the two frames
    config.data.longest_gap = placeholder(float)  # seconds: gaps are drawn between the two; None: always gap
    config.data.past_end = "exclude"  # pairs past the end of an episode; "repeat": its last frame, as official
    config.evaluation = dict(pairs=2000)  # held-out pairs at the end
    small = dict(
        model={**CONV, "num_codes": 8, "code_dim": 32},
        loss=dict(change_weight=1.5),
        optimizer=dict(
            learning_rate=2e-3, end_learning_rate=1e-4, warmup_steps=50, b2=0.99,
            weight_decay=1e-4, clip_norm=1.0,
        ),
        data=dict(gap=0.4, image_size=64, decode_once=True),
    )
    if size != "base":
        del config.model.backbone_args
        config.model.backbone_args = dict(CONV["backbone_args"])
        config.update(small)
    return common.resize(config, size, SIZES)


SIZES = {
    "base": {},
    "full": dict(num_steps=1000, model=dict(soft_steps=200)),
    "demo": dict(num_steps=600, model=dict(soft_steps=150)),
    "tiny": dict(
        num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2),
        model=dict(backbone_args=dict(width=8)), evaluation=dict(pairs=32),
    ),
}
