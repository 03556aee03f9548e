"""From a checkpoint to integer graphs, and the proof that they are what they claim to be."""
