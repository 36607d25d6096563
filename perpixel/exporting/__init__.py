"""A model as a file that other programs run: ONNX, or PyTorch's own exported program."""
