"""The transfer matrix: patches of many sources against many targets on many engines."""
