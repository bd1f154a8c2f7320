"""What stands around every endpoint: connection, TLS, guards, errors, reading, the live feed."""
