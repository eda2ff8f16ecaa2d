"""Classical unlearning algorithms on a network and its training data, as one agent and a table."""
