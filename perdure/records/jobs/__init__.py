"""Questions about jobs: one, many, by text; their timelines, log bundles and resumptions; what is forgotten when."""
