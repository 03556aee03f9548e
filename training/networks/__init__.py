"""Networks whose one set of weights serves every bit-width and lowers to integers as a whole."""

from training.networks.network import Network, NetworkSpec
from training.networks.registry import NETWORKS, build_network

__all__ = ["NETWORKS", "Network", "NetworkSpec", "build_network"]
