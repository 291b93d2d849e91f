"""One file-system layer for local paths and object stores, and the atomic publication of a stage's output.

`places` goes from a URL to its file system, `store` reads and puts whole files, `faults` tells what went wrong,
`manifest` publishes, `exclusive` creates what only one may create, and `lease` holds what only one may hold.
"""

from raydelt.storage.faults import of_store, told
from raydelt.storage.manifest import MANIFEST, Manifest, Stage, fingerprint, guarded, read_manifest
from raydelt.storage.places import absolute, filesystem, opened, refuse_credentials, scheme
from raydelt.storage.store import Part, Standing, Store

__all__ = [
    "MANIFEST",
    "Manifest",
    "Part",
    "Stage",
    "Standing",
    "Store",
    "absolute",
    "filesystem",
    "fingerprint",
    "guarded",
    "of_store",
    "opened",
    "read_manifest",
    "refuse_credentials",
    "scheme",
    "told",
]
