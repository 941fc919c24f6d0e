"""A simulated board and recorded traces, to compare policies on. See `drive` for the loop."""
