"""The part of qadtr that travels to the device.

Needs the standard library, numpy and, in ``onnxruntime_engine`` alone, onnxruntime. All imports
inside are relative, so that the folder runs from any place under any package name.
"""
