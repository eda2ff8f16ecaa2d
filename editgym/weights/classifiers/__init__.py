"""Classifiers whose weights can be edited: the network, and how its unedited part is run once."""
