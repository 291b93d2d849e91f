"""Before the first run: a spec for one's own data (`raydelt init`), and whether a run would start here (`doctor`).

`init` goes look (a bounded sample, by the readers of the flow) -> columns -> choose -> write; `doctor` is a list of
checks, each under its own deadline.
"""
