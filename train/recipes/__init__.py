"""Recipes that come with the package; `ffn-edge train NAME` runs one."""
