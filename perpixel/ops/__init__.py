"""The numeric core: resize weights, fused losses, upsampling."""
