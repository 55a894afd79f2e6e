"""What the live page of `serve` is made with."""

import json
from typing import Any

from ml_collections import ConfigDict

from lapa_jax import errors
from lapa_jax.serving import imagination, page
from lapa_jax.serving.page import shared
from lapa_jax.serving.service import Service


def routes(config: ConfigDict, service: Service) -> list[Any]:
    """Of the page that the section `page` of the config describes.

    Raises:
        UserError: a LAQ that is none, or is not of this policy; steps that the policy cannot take.
    """
    metadata = service.policy.metadata
    imagine = imagination.Imagination.from_checkpoint(config.laq, metadata) if config.laq else None
    live = page.Live(
        shared.of_service(service),
        metadata,
        imagine,
        no_imagination="The server was given no LAQ: start it with --config.page.laq=FOLDER of the train_laq run.",
        environment=config.env,
        arguments=arguments(config.env_args),
        proprio=config.proprio,
        execute=config.execute,
        ensemble=config.ensemble,
        limits=page.Limits(sessions=config.sessions, idle_seconds=config.idle_s),
    )
    return page.routes(live)


def arguments(text: str | None) -> dict[str, Any] | None:
    """Of the environment; None: the page's own.

    Raises:
        UserError: it is no JSON object.
    """
    try:
        found = None if text is None else json.loads(text)
    except ValueError:
        found = text
    if found is not None and not isinstance(found, dict):
        raise errors.UserError(f"page.env_args={text}: give a JSON object, such as {{\"split\": \"video\"}}")
    return found
