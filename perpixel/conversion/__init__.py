"""Converts other toolkits' checkpoints to perpixel's, and back."""

from perpixel.conversion.detect import Finding, find, from_state_dict, model_from_checkpoint
from perpixel.conversion.export_ import to_state_dict

__all__ = ["Finding", "find", "from_state_dict", "model_from_checkpoint", "to_state_dict"]
