"""A policy behind a port: openpi's websocket protocol and a REST `POST /act`, for anyone who can connect."""
