"""Policies beside each other and an oracle, on a simulated board: see `__main__`."""
