"""Hypernetworks that turn gradients into edits, and how they learn on sequences of edits."""
