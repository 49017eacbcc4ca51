"""What messages say: from the bytes of a broker or webhook to frozen statements, without I/O.

Rules
-----
1. Decoding never fails but with ``MessageRefused``, which names the field and what was expected; its cost is bounded by
   the size of the message.
2. Statements about one run merge (``runs``): in whatever order they come, and however often, the result is the same.
3. A point keeps its value exactly: it becomes MLflow's wire form once, here (``points``).
"""
