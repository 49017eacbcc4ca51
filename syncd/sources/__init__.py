"""Adapters that read local stores. They never write into a store and never import each other."""
