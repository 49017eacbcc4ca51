"""What sources and sinks of one broker share: how to connect, and what its library's errors mean."""
