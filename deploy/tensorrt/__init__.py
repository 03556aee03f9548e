"""Build engines from files of the target ``tensorrt`` with TensorRT or TensorRT-RTX, and run them.

Only this folder imports tensorrt or tensorrt_rtx_bindings, and only when an engine is built or
opened.
"""
