"""Networks whose one set of weights serves every bit-width and lowers to integers as a whole."""

from training.network_spec import NetworkSpec
from training.networks.network import Network
from training.networks.registry import NETWORKS, build_network

__all__ = ["NETWORKS", "Network", "NetworkSpec", "build_network"]
