"""Pure core: facts, parsing, planning, decisions. No I/O, no clock, no randomness, nothing that waits."""
