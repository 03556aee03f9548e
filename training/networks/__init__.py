"""The project's networks as plain float torch modules, independent of quantization."""

from training.networks.registry import NETWORKS, float_network

__all__ = ["NETWORKS", "float_network"]
