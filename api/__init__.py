"""The HTTP API: what people and other programs ask of Perdure. Records are read here, never written, settings aside."""
