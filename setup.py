"""What setup.cfg cannot say: packages of two folders. client/ is a distribution of its own, too: for the robot."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["lapa_jax*"]), "lapa_client"],
    package_dir={"lapa_client": "client/lapa_client"},
)
