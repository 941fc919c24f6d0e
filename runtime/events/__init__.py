"""Events: what began and ended, from the probabilities of windows. Pure: no clock, no I/O."""
