"""A server of the fake policy as a process: prints its port.

    python tests/serving/serve_fake.py '{"seconds": 0.5}' '{"max_batch": 2}'

The arguments are those of `FakePolicy` and of `Options`.
"""

import json
import logging
import sys

from fake_policy import FakePolicy

from lapa_jax.serving import app, options, server

logging.basicConfig(level=logging.WARNING)
policy, limits = (json.loads(argument) for argument in sys.argv[1:])
listening = server.bind("127.0.0.1", 0)
print(listening.getsockname()[1], flush=True)
server.run(app.make(FakePolicy(**policy), options.Options(**limits)), listening)
