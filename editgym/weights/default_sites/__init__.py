"""Which layers of a network are edited where nobody names any."""
