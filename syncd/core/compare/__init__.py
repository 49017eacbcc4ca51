"""Comparing what a source states with what a destination tells, as values; nothing is read here.

Rules
-----
1. A ``Difference`` is something that a faithful copy would not show; exit code 4. A ``Note`` is something that a server
   cannot hold as it is and that is held in the way agreed upon; worth saying, no difference.
2. A point is (timestamp, step, value) within its key, as in ``reconcile``: NaN equals NaN, -0.0 equals 0.0, an infinity
   equals the largest double. Points are compared as two sorted streams, so that a million of them need no memory.
3. What is in an overflow document with its whole value counts as held.

``findings`` has what a comparison comes to; ``heads``, ``values``, ``links``, ``points`` and ``artifacts`` compare one
kind of thing each; ``shown`` prepares values for people.
"""
