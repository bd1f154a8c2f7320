"""The documentation site: what of it is generated, and how a page refers to the source."""
