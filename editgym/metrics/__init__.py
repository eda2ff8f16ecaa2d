"""What an edit did to a network, measured on test data."""
