"""The live page: type an instruction and watch a policy drive an environment. See docs/live-page.md.

    live = page.Live(infer, policy.metadata)
    app = starlette.applications.Starlette(routes=page.routes(live))
"""

from lapa_jax.serving.page.live import Limits, Live
from lapa_jax.serving.page.web import routes

__all__ = ["Limits", "Live", "routes"]
