"""What a frozen encoder gives for every frame, on disk. The encoder is a folder of train_tokenizer or convert_vqgan
(ids), or a tower (features; docs/vision-towers.md).

    python experiments/encode_frames.py --config=experiments/configs/encode_frames.py --workdir=runs/mine/features \
        --config.encoder=weights/siglip2-base-patch16-256 --config.data.directory=datasets/my_video
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.batch_size = 64  # frames a call; divisible by the local devices
    config.encoder = placeholder(str)  # path of what encodes
    config.tower = dict(dtype="float32")  # of a tower's computation; bfloat16 is faster on accelerators
    config.dtype = "float16"  # or bfloat16, float32: of stored features
    config.features = False  # of a tokenizer: what it quantises, instead of ids
    config.pool = 1  # of features: average squares of so many cells a side
    config.resize = "antialias"  # or "official": frames as the published models were shown them
    config.frames_per_shard = 4096
    config.splits = ("train", "val")
    config.data = common.get_data()
    del config.data.image_size
    config.data.image_size = placeholder(int)  # pixels that the encoder sees; None: as it was trained
    for unused in ("augment", "decode_once", "num_workers", "synthetic"):
        del config.data[unused]
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": {}, "tiny": dict(batch_size=8, frames_per_shard=10)}
