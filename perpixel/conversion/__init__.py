"""Converts other toolkits' checkpoints to perpixel's, and back."""

from perpixel.conversion.detect import Finding, build_model, find, from_state_dict
from perpixel.conversion.export_ import to_state_dict

__all__ = ["Finding", "build_model", "find", "from_state_dict", "to_state_dict"]
