"""Handlers of ONNX operators, registered by name."""
