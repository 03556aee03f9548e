"""The validator: the part of qadtr that is copied to the device, with ``deploy.core``.

It needs the standard library, numpy and, only in ``onnxruntime_engine``, onnxruntime. All imports
inside are relative, so that the two folders run from any place under any package name.
"""
