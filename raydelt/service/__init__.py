"""Runs as jobs of a Ray cluster: what is shipped, under which name, on which terms, and how it is followed.

`submit` is the way in; `client` talks to the dashboard of the cluster, which must never be open to the world: whoever
reaches it runs code there.
"""
