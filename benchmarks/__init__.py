"""Comparing agents: suites are data, a runner makes rows, statistics make estimates, a report draws
them.
"""
