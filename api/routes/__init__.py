"""One module per resource. Thin: read the request, ask, shape the answer."""
