"""What a workflow's code has: `Run`, and what makes it durable."""
