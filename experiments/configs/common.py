"""What the configs of all stages have in common."""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from lapa_jax import errors


def get_common() -> ConfigDict:
    """Keys every program reads; each stage overrides what it needs."""
    config = ConfigDict()
    config.seed = 0  # of initialisation, noise and the order of the data
    config.batch_size = 64  # global; divisible by data*fsdp
    config.accumulate = 1  # parts that a batch is cut into, one after the other, where it does not fit whole
    config.num_steps = 1000  # updates
    config.param_dtype = "float32"  # how what is trained is stored; bfloat16: updates are rounded stochastically
    config.frozen_dtype = "float32"  # how what is not trained is stored; bfloat16 halves it
    config.log_every = 50  # steps between lines on the console and in metrics.jsonl
    config.mesh = dict(data=1, fsdp=-1, tensor=1, sequence=1)  # -1: the devices left over
    config.distributed = dict(  # several processes, docs/launching.md; cluster environments need only enabled
        enabled=False,
        coordinator=placeholder(str),  # HOST:PORT of process 0
        num_processes=placeholder(int),
        process_id=placeholder(int),  # from 0
        local_devices=placeholder(str),  # numbers of this process's GPUs, "0,1"; None: see hosts.join
        timeout=300,  # seconds to wait for all processes, at the start and at the end
        heartbeat=60,  # seconds without a sign of life after which a process counts as dead
    )
    config.checkpoint = dict(
        every=500,  # steps
        keep_last=2,  # how many recent ones stay
        keep_every=placeholder(int),  # steps: those at multiples of it stay for good; None: none do
    )
    config.profile = dict(
        steps="",  # FIRST:LAST, such as 10:15: these leave a trace in the run's folder (docs/speed.md)
        peak_tflops=placeholder(float),  # of one device, that MFU is a share of; None: by the table of chips
    )
    return config


def get_optimizer(**rates: float) -> ConfigDict:
    """Keys of AdamW, the same for all stages that train; `rates` are those that each chooses."""
    optimizer = ConfigDict({"b1": 0.9, **rates})
    optimizer.moments = "float32"  # how Adam's two are stored; or "bfloat16", "float8"
    optimizer.trainable = ""  # regular expression of parameter paths: only what matches is trained
    optimizer.frozen = ""  # regular expression of parameter paths: what matches is not trained
    optimizer.ema = 0.0  # decay of a moving average of what is trained, for evaluation; 0: none
    return optimizer


def get_data() -> ConfigDict:
    """Keys of the data, the same for all stages that read a dataset."""
    data = ConfigDict()
    data.directory = "datasets"  # RLDS, LeRobot, Something-Something V2, videos or folders of frames
    data.mixture = placeholder(str)  # a name of docs/datasets.md, or FOLDER=WEIGHT,... below data.directory
    data.balance = True  # weights count for each example of a dataset, not for the dataset as a whole
    data.name = placeholder(str)  # entry of the table; None: the dataset's own name
    data.rate = placeholder(float)  # steps a second, where the dataset does not say
    data.image_key = placeholder(str)  # image_primary|image_secondary|image_wrist or its own; None: the first
    data.image_size = 256  # pixels
    data.decode_once = False  # keep decoded frames in memory (small images only)
    data.on_damage = "fail"  # or "skip": leave damaged records and videos out, and say so
    data.cache = placeholder(str)  # folder of indices and decoded videos; None: ~/.cache/lapa_jax
    data.clips = dict(rate=10.0, size=256, quality=95)  # of human video: frames a second, pixels, JPEG quality
    data.augment = dict(crop=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)  # see data/augment.py
    data.num_threads = 2  # that read ahead
    data.num_workers = 0  # processes that read ahead; 0: threads of this one
    data.synthetic = False  # one batch is read and then repeated: how fast is a run without its input?
    return data


def resize(config: ConfigDict, size: str, sizes: dict[str, dict[str, Any]]) -> ConfigDict:
    """`config` with the overrides of a named size merged in."""
    if size not in sizes:
        raise errors.UserError(f"no size {size!r}; choose one of: {', '.join(sizes)}")
    config.update(sizes[size])
    return config
