"""Which machine this is, and how hot and throttled."""
