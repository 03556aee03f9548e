"""The ground that the validator, the engines and every other package stand on.

Needs the standard library and numpy. All imports inside are relative, so that the folder runs from
any place under any package name.
"""

import os

# ONNX Runtime's wheels write an identifier and look up a collector about a minute into a run; what
# they are told here must be told before their import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
