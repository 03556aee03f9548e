"""The base that the validator, the engines and every other package use.

It needs only the standard library and numpy. All imports inside are relative, so that the folder
runs from any place under any package name.
"""

import os

# ONNX Runtime's wheels write an identifier and look up a collector about a minute into a run; these
# variables must be set before they are imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
