"""The reading half of a Hugging Face Hub, for one host: what a lab's push looks like without the internet.

The real ``huggingface_hub`` client reads from it by ``endpoint=``; a release is pushed with ``push_folder`` or
``python -m infra.local_hub push``. The store is plain files, so a push needs no running server and a running server
needs no restart to see it.
"""

from infra.local_hub.push import push_folder

__all__ = ["push_folder"]
