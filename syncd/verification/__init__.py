"""``syncd verify``: both sides are read anew, no journal is asked, and every difference is named.

Theory of operation
-------------------
The sources are read whole into a spool (a temporary database). Then experiments, logged models and runs are compared
side by side, a few at a time, each by what the destination tells of it now. Points come from both sides as sorted
streams and artifacts as digests of streamed bytes, so memory does not grow with either.

What is equal is decided in ``core.compare``; here both sides are read and brought together. Of what copies only the
adapters are used, for reading: neither ``runtime`` nor ``journal`` is imported, whose faults are what is looked for.
"""
