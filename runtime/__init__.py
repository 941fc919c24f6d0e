"""From a bundle to predictions: engines, clip buffer, sources, policy, session, sinks."""
