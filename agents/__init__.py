"""Agents that edit networks: every one is a class behind the protocol of `agents.protocol`."""
