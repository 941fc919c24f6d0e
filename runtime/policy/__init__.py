"""Which frame count to run next. See `interface` for the terms, `adaptive` for ours."""
