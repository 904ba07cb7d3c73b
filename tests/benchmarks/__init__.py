"""What the book's speed claims rest on: ours beside lightly, and parts of a step beside the whole.

`make bench` runs everything; ``python -m benchmarks views mae`` (with tests/ on the path) some of
it. No number here is measured by `make test`, which only sees to it that the benchmarks run.
"""
