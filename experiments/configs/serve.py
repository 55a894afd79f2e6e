"""A policy behind a port. It needs the folder of its finetune run and nothing else.

    python experiments/serve.py --config.policy=runs/demo/finetune --config.port=8000
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import common


def get_config(size: str = "base") -> ConfigDict:
    config = common.get_common()
    config.policy = placeholder(str)  # folder of a finetune run
    config.host = "127.0.0.1"  # whom it listens to: this machine only; "0.0.0.0" is everyone
    config.port = 8000  # 0: any free one
    config.token_file = placeholder(str)  # file whose text every request must bear as its token; None: none
    config.hosts = ()  # more names under which browsers on this machine reach it, as behind a proxy
    config.names = ""  # names in observations, THEIRS=OURS,THEIRS=OURS; nothing after "=": left out
    config.limits = dict(  # see lapa_jax/serving/options.py
        max_batch=8,  # observations of one call of the policy
        max_wait_ms=2.0,  # that a request waits for others to share a call with
        max_queue=128,  # requests that wait; one more is told "busy"
        max_message_mb=16.0,  # of a message or body
        max_pixels=4096 * 4096,  # of an image
        max_connections=128,  # at the same time
        header_s=10.0,  # seconds for the headers of a request
        body_s=20.0,  # seconds for a body or message that has begun
        request_s=30.0,  # seconds from a request to its answer
        idle_s=600.0,  # seconds after which a silent websocket is closed
        grace_s=30.0,  # seconds that running requests have when the server is told to end
    )
    config.page = dict(  # what a browser gets at "/": docs/live-page.md
        show=True,
        laq=placeholder(str),  # folder of the train_laq run whose codes the policy plans; None: nothing is imagined
        env="tabletop",  # that it drives
        env_args=placeholder(str),  # JSON object of its arguments; None: the page's own
        proprio="proprio",  # field of its observations that is the policy's proprio
        execute=placeholder(int),  # actions carried out of each chunk; None: history of the policy, else 2
        ensemble=placeholder(float),  # as in evaluate
        sessions=4,  # pages at the same time, each with an environment
        idle_s=900.0,  # seconds after which a page that nobody uses ends
    )
    return common.resize(config, size, SIZES)


SIZES = {"base": {}, "full": {}, "demo": {}, "tiny": dict(limits=dict(max_batch=2))}
