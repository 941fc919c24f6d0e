"""Where events and results go, none of which may hold up an inference."""
