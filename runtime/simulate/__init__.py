"""What a policy would have done on a device: recorded traces, replayed."""
