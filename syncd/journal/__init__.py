"""The durable record of what was read and what was delivered; the only writer of the state database."""
