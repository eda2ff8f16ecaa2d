"""Agents that debias text classifiers with the model's own data."""
