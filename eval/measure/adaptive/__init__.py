"""What someone who knows the defense achieves, as records."""
