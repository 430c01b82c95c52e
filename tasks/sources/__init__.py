"""Where models come from: a Hub now, other sources by the same protocol later. No Prefect in here.

``huggingface_hub`` reads its switches from the environment when it is first imported, so they are set here, before any
module of this folder imports it. What the environment says already is left alone.
"""

import os

# Xet would fetch large files past the plain HTTP path that carries the ETag, and fails on every server but one.
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
# Else a token from the home folder goes to whatever endpoint is asked, also to one that is not its issuer.
os.environ.setdefault("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
