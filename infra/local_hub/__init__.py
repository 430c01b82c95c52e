"""A Hugging Face Hub for one host: what a lab does on the real one, without the internet.

The real ``huggingface_hub`` client reads from it and writes to it by ``endpoint=`` (with HF_HUB_DISABLE_XET=1); a
release is also pushed with ``push_folder`` or ``python -m infra.local_hub push``. The store is plain files, so a push
needs no running server and a running server needs no restart to see it.
"""

from infra.local_hub.push import push_folder

__all__ = ["push_folder"]
