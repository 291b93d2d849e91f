"""Asking a finished run: why an example was kept, what differs between runs, examples, exports, and Python's `Run`.

Everything here reads the published Parquet of one version of a run, on a local disk or in an object store, without
Ray. Questions about one example read parts of files; questions about all of them go file by file.
"""
