"""The service: cameras, outputs and a page, from one file of settings."""
