"""The validator: the part of qadtr that travels to the device, with ``deploy.core``.

Needs the standard library, numpy and, in ``onnxruntime_engine`` alone, onnxruntime. All imports
inside are relative, so that the two folders run from any place under any package name.
"""
