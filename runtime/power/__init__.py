"""How much power the machine draws: meters, the account of energy, and a thread that fills it."""
