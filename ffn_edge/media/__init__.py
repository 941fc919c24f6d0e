"""Videos and pictures: what is read, written and resized."""
