"""Inside a node: its init, which plays the instance's boot, service supervisor, ECS agent and dockerd."""
