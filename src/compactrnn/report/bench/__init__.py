"""Benchmarks of single steps: this engine and other frameworks in one process, one thread, one core, interleaved."""

FRAMEWORKS = ("torch", "onnxruntime", "openvino", "ncnn")
WEIGHTS = ("int8", "int4", "float32", "auto")
