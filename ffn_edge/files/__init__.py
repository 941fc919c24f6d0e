"""Files that are read whole or refused, and written whole or not at all."""
