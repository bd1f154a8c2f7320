"""The configuration as the API takes and answers it, by our keys and by those of MMBatch."""
