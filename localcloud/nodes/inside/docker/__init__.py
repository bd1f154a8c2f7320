"""The node's Docker: its own dockerd, its images, and containers as the ECS agent makes them."""
