"""Other toolkits' checkpoints: theirs to ours, and ours to theirs."""

from perpixel.conversion.export import to_state_dict
from perpixel.conversion.finding import Finding, find, from_state_dict, network_of

__all__ = ["Finding", "find", "from_state_dict", "network_of", "to_state_dict"]
