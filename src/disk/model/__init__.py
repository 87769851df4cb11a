"""The network, detection and description, the engines for CPU and GPU, checkpoints, ONNX."""
