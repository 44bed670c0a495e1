"""What every room may use and nothing of the field is known in: files, logs, identities, registries."""
