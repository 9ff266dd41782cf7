"""What our classes cost beside Agno's own, in one run: `make bench`.

`counting` counts at the client and on the wire, alike for both sides; `sides` opens both on one server; `work` is what
is done on them; `report` compares, judges by the goals, and prices. `scale` and `plumbing` look at ours alone.
"""
