"""What a process needs to reach the stores that this one reaches: what may be told, and credentials, which may not.

Credentials that the environment holds are passed on; those of a profile with fixed keys too, since other machines need
not have that profile. Of a profile that signs in or takes a role only the name is passed: its keys run out, and other
machines must renew them by themselves, as must those that get keys from the machine they run on.

Caution: whoever may run tasks in the cluster can read what its workers were given.
"""

from __future__ import annotations

import os
from collections.abc import Callable

TOLD = (
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "AWS_CA_BUNDLE",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "GOOGLE_CLOUD_PROJECT",
    "HF_ENDPOINT",
)
SECRET = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN")
PROFILES = ("AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")


def of_this_process() -> tuple[dict[str, str], dict[str, str]]:
    """Variables of the environment that may be written into logs, and those that may not."""
    told = {name: os.environ[name] for name in TOLD if name in os.environ}
    secret = {name: os.environ[name] for name in SECRET if name in os.environ}
    if "AWS_ACCESS_KEY_ID" not in secret:
        of_profile, keys = _of_profile()
        told, secret = of_profile | told, secret | keys
    return told, secret


def giver(secret: dict[str, str]) -> Callable[[], None]:
    """A function that sets these variables in the process that calls it, where it has none of its own.

    A session's token belongs to a pair of keys: they are set together or not at all.
    """

    def take_credentials() -> None:
        own = "AWS_ACCESS_KEY_ID" in os.environ
        for name, value in secret.items():
            if not (own and name.startswith("AWS_")):
                os.environ.setdefault(name, value)

    return take_credentials


def _of_profile() -> tuple[dict[str, str], dict[str, str]]:
    """What the profile says: region and endpoint, and its keys where they are fixed ones, else its name."""
    named = {name: os.environ[name] for name in PROFILES if name in os.environ}
    files = (os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"), "~/.aws/config")
    if not named and not any(os.path.exists(os.path.expanduser(file)) for file in files):
        return {}, {}
    import botocore.session  # type: ignore[import-untyped]

    session = botocore.session.Session(profile=os.environ.get("AWS_PROFILE"))
    if "AWS_PROFILE" in os.environ and os.environ["AWS_PROFILE"] not in session.available_profiles:
        return named, {}
    scoped = session.get_scoped_config()
    chain = session.get_component("credential_provider")
    for provider in ("shared-credentials-file", "config-file"):
        found = chain.get_provider(provider).load()
        if found is not None:
            keys = {"AWS_ACCESS_KEY_ID": found.access_key, "AWS_SECRET_ACCESS_KEY": found.secret_key}
            keys |= {"AWS_SESSION_TOKEN": found.token} if found.token else {}
            settings = {"AWS_DEFAULT_REGION": scoped.get("region"), "AWS_ENDPOINT_URL": scoped.get("endpoint_url")}
            return {name: value for name, value in settings.items() if value}, keys
    return named, {}
