"""Ours and others', measured side by side: one process, one thread, one core, turn by turn."""

PEERS = ("torch", "onnxruntime", "openvino", "ncnn")
WEIGHTS = ("int8", "int4", "float32", "auto")
