"""`ffn-edge data scan`: what people have, looked at, reported and split; nothing of it changes."""
