"""What tests, demo and benchmarks share: a private server, clients, the wire protocol."""
