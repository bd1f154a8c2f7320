"""Questions about nodes: one, many, and what they did."""
