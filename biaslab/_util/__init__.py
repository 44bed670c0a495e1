"""Helpers that know nothing of images, attention or models: files, logs, identities, registries."""
