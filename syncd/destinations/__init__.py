"""Adapters that write to tracking servers. They never import each other."""
