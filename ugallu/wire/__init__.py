"""What travels between processes: messages and services, generated from proto/."""
