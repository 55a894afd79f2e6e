"""Stage 1. `official` is the LAQ as published (344M parameters; NSVQ; LAPA laq/train_sthv2.py) and `base` the same
network without its layout bugs and with a codebook that stays alive; `demo` and `full` are the small conv LAQ
for two CPU cores; `tiny` is what tests run.

    python experiments/train_laq.py --config=experiments/configs/train_laq.py:demo --workdir=runs/demo/laq
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common

CONV = dict(
    backbone="conv",
    backbone_args=dict(width=32, depth=1, patch_size=4, dtype="float32", remat=False),
    quantizer="fsq",
    quantizers=dict(fsq=dict(levels=(4, 2))),
    num_codes=8,
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
                patch_size=32, image_size=256, reader="cnn", legacy=False, remat=False, dtype="float32",
            )
        ),
        quantizer="nsvq",  # fsq|nsvq|nsvq_official|vq|vq_ema|kl
        quantizers=dict(  # what each has to set; only the chosen one's are read
            fsq=dict(
                levels=(2, 2, 2),  # cells a dimension; their product is num_codes
                soft_steps=0,  # steps over which quantisation is phased in
            ),
            nsvq=dict(revive="data"),  # or "none": dead codes stay dead
            vq=dict(revive="data", commitment=0.01, whiten=True),
            vq_ema=dict(revive="data", commitment=0.01, whiten=True, decay=0.99),
            kl=dict(beta=1e-5),  # continuous: no codes, so no stage 2
        ),
        num_codes=8,  # codes a token
        code_length=4,  # tokens a transition
        code_dim=32,  # size of the quantised vector; fsq has one dimension a level instead
        target="pixels",  # or "features", of the tower
        tower=None,  # made from config.tower
        phase=placeholder(str),  # None; "scene", then "task": codes of what the instruction does not say, and does
        scene_length=0,  # codes of the scene beside code_length of the task
        text_vocab=0,  # made from the instructions
        action_dim=0,  # made from the labels
    )
    config.loss = dict(
        change_weight=0.0,  # extra weight of pixels that change; 0 is plain MSE
        perceptual=0.0,  # weight of the error in the tower's features, beside that of pixels
    )
    config.tower = dict(  # frozen image encoder, for targets and the perceptual term; docs/vision-towers.md
        path=placeholder(str), dtype="float32",
    )
    config.labels = dict(  # a little supervision: pairs of a few episodes, whose actions are read off z
        weight=0.0, episodes=128, batch_size=16, normalisation="gaussian",
    )
    config.earlier = placeholder(str)  # the run of phase "scene" that phase "task" starts from
    config.optimizer = common.get_optimizer(
        learning_rate=1e-4, end_learning_rate=1e-4, warmup_steps=0, b1=0.9, b2=0.99,
        weight_decay=0.0, clip_norm=0.5,
    )
    config.data = common.get_data()
    config.data.train_split = "train"
    config.data.val_split = "val"
    config.data.text_length = 32  # tokens, where instructions are read
    config.data.gap = 0.6  # seconds between the two frames
    config.data.longest_gap = placeholder(float)  # seconds: gaps are drawn between the two; None: always gap
    config.data.past_end = "exclude"  # pairs past the end of an episode; "repeat": its last frame, as official
    config.alarm = dict(share=0.25, after=100)  # perplexity below that share of the codes, after so many steps
    config.evaluation = dict(pairs=2000)  # held-out pairs at the end
    small = dict(
        model=CONV,
        loss=dict(change_weight=1.5),
        optimizer=dict(
            learning_rate=2e-3, end_learning_rate=1e-4, warmup_steps=50, b2=0.99,
            weight_decay=1e-4, clip_norm=1.0,
        ),
        data=dict(gap=0.4, image_size=64, decode_once=True),
    )
    if size not in ("base", "official"):
        del config.model.backbone_args
        config.model.backbone_args = dict(CONV["backbone_args"])
        config.update(small)
    return common.resize(config, size, SIZES)


SIZES = {
    "base": {},
    "official": dict(model=dict(quantizer="nsvq_official", backbone_args=dict(legacy=True))),
    "full": dict(num_steps=1000, model=dict(quantizers=dict(fsq=dict(soft_steps=200)))),
    "demo": dict(num_steps=600, model=dict(quantizers=dict(fsq=dict(soft_steps=150)))),
    "tiny": dict(
        num_steps=4, batch_size=8, log_every=2, checkpoint=dict(every=2),
        model=dict(backbone_args=dict(width=8)), evaluation=dict(pairs=32),
    ),
}
