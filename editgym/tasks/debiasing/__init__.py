"""Bias mitigation in text classifiers: the task, its edit terms, texts, networks and heads."""

from editgym.tasks.debiasing.task import DebiasingSplits, DebiasingTask, LabelledPair, TextPair

__all__ = ["DebiasingSplits", "DebiasingTask", "LabelledPair", "TextPair"]
