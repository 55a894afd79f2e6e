"""Client of a lapa_jax policy server."""

from lapa_client.client import Client
from lapa_client.failures import ServerError, Unreachable

__version__ = "0.1.0"
__all__ = ["Client", "ServerError", "Unreachable"]
