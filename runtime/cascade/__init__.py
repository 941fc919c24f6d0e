"""Answer with few frames, look again where unsure."""
