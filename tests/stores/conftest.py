"""The stores, as fixtures."""

from tests.stores.store_bed import aws_access, objects, s3_url

__all__ = ["aws_access", "objects", "s3_url"]
