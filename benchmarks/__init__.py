"""Scripts that print the README's figures."""
