"""As libero/libero/__init__.py: no config file means a question on stdin, at import."""

import os

import yaml

config_file = os.path.join(
    os.environ.get("LIBERO_CONFIG_PATH", os.path.expanduser("~/.libero")), "config.yaml"
)


def get_libero_path(query_key):
    with open(config_file) as file:
        return yaml.safe_load(file)[query_key]


if not os.path.exists(config_file):
    input("Do you want to specify a custom path for the dataset folder? (Y/N): ")
