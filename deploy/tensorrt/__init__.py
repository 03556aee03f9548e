"""TensorRT and TensorRT-RTX: building engines from files of the target ``tensorrt``, running them.

The one folder that imports tensorrt or tensorrt_rtx_bindings, and only when an engine is built or
opened.
"""
