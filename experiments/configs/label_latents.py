"""Labelling with a trained LAQ. Gap, image size and dataset are those it was trained with.

    python experiments/label_latents.py --config=experiments/configs/label_latents.py --workdir=runs/demo/latents \
        --config.laq=runs/demo/laq
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 256  # pairs a call; divisible by data*fsdp
    config.laq = placeholder(str)  # folder of a train_laq run
    config.directory = placeholder(str)  # dataset to label; None: the one the LAQ was trained on
    config.dtype = placeholder(str)  # bfloat16 or float32, of the computation; None: as it was trained
    config.num_threads = 2  # that read frames ahead
    config.splits = ("train", "val")
    config.write_rlds = False  # also write the trajectories with their codes, as RLDS for any reader
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": {}, "tiny": dict(batch_size=8)}
