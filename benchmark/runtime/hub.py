"""The hub of Hugging Face, from which data sets and published weights come where they are not in its cache."""

import socket
import sys
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

PATIENCE = 5.0  # seconds


def only_cached_if_unreachable() -> None:
    """Let the libraries of the hub look only into their cache where it cannot be reached: they would try for a minute.

    Behind a proxy nothing is tried here. It holds for the rest of the process.
    """
    hub = urlsplit(constants.ENDPOINT)
    if constants.HF_HUB_OFFLINE or getproxies().keys() & {"http", "https", "all"}:
        return
    try:
        socket.create_connection((hub.hostname, hub.port or {"http": 80}.get(hub.scheme, 443)), PATIENCE).close()
    except OSError as problem:
        print(f"note: {hub.hostname} cannot be reached ({problem}): only its cache is used.", file=sys.stderr)
        constants.HF_HUB_OFFLINE = True
        if "datasets" in sys.modules:
            sys.modules["datasets"].config.HF_HUB_OFFLINE = True
