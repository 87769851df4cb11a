"""The network, detection, the descriptor head, checkpoints and the ONNX backend."""
