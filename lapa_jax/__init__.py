"""LAPA: latent action pretraining from videos, in one JAX/Flax stack."""

__version__ = "0.1.0"
