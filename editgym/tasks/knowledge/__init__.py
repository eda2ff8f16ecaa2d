"""Correcting the facts of a language model: the task, its streams, and what edits are asked."""

from editgym.tasks.knowledge.task import KnowledgeTask

__all__ = ["KnowledgeTask"]
