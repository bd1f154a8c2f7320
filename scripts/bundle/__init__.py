"""Builds the release for instances: archives, installer, signed manifest. Not part of the product."""
