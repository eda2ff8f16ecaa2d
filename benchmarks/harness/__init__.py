"""Cells are measured, run in processes, and validated."""
