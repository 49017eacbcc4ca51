"""JSON schemas of what goes over a wire, and checking against them.

``messages/*.json`` are what comes in. A schema is also a description for people: the ``description`` of a field is what
an error says was expected.
"""
