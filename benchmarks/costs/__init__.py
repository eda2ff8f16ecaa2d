"""What editing costs: command lines that time it."""
