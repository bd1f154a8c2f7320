"""What processes say to each other: names of queues and workflows, messages, typed activity stubs."""
