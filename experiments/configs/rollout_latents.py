"""Latent rollouts. Gap and image size are those of the LAQ.

    python experiments/rollout_latents.py --config=experiments/configs/rollout_latents.py \
        --workdir=runs/demo/rollouts --config.vlm=runs/demo/vlm --config.laq=runs/demo/laq
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.vlm = placeholder(str)  # folder of a pretrain_vlm run
    config.laq = placeholder(str)  # folder of the train_laq run that made its labels
    config.directory = placeholder(str)  # dataset to begin in; None: the one the LAQ was trained on
    config.split = "val"
    config.videos = 8
    config.steps = 6  # latent actions a video
    config.temperature = 0.0  # 0: the likeliest code
    config.top_p = 1.0  # draw from the fewest likeliest codes that hold this probability
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": {}, "tiny": dict(videos=2, steps=3)}
