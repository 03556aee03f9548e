"""What a patch does: subjects and patch sets in, records out."""
