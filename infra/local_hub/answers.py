"""Commits as the Hub's JSON: the shapes that ``huggingface_hub`` 2.4.0 parses.

Beware that a large file's digest is ``lfs.sha256`` among siblings and ``lfs.oid`` in a tree.
"""

import hashlib
from typing import Any

from infra.local_hub.describe import base_models, tags_of
from infra.local_hub.store import Commit, Repo, StoredFile

# All that the client may ask for. Those that a reading Hub on one host cannot know (downloads, trending, inference
# providers) are accepted and left out of the answer, which the client reads as None.
LIST_EXPAND = frozenset(
    "author cardData config createdAt disabled downloads downloadsAllTime evalResults gated gguf inference "
    "inferenceProviderMapping lastModified library_name likes mask_token model-index pipeline_tag private "
    "resourceGroup safetensors sha siblings spaces tags transformersInfo trendingScore widgetData".split()
)
INFO_EXPAND = LIST_EXPAND | {"baseModels", "childrenModelCount", "usedStorage"}
LIST_DEFAULT = ("createdAt", "downloads", "likes", "library_name", "pipeline_tag", "private", "tags")
LIST_FULL = (*LIST_DEFAULT, "author", "disabled", "gated", "lastModified", "sha", "siblings")
INFO_DEFAULT = (*LIST_FULL, "cardData", "config", "safetensors", "usedStorage")


def model_row(repo: Repo, commit: Commit, properties: tuple[str, ...], *, blobs: bool = False) -> dict[str, Any]:
    """One model with the asked properties; ``_id``, ``id`` and ``modelId`` are always there."""
    known: dict[str, Any] = {
        "author": repo.repo_id.split("/")[0],
        "baseModels": {"models": [{"id": parent} for parent in base_models(commit.card)]},
        "cardData": commit.card or None,
        "config": commit.config or None,
        "createdAt": repo.created_at,
        "disabled": repo.disabled,
        "downloads": 0,
        "gated": repo.gated,
        "lastModified": commit.date,
        "library_name": commit.card.get("library_name"),
        "likes": 0,
        "pipeline_tag": commit.card.get("pipeline_tag"),
        "private": repo.private,
        "safetensors": commit.safetensors,
        "sha": commit.sha,
        "siblings": [_sibling(f, blobs=blobs) for f in commit.files],
        "tags": tags_of(commit.card, commit.config, [f.path for f in commit.files]),
        "usedStorage": sum(f.size for f in commit.files),
    }
    row = {"_id": repo.internal_id, "id": repo.repo_id, "modelId": repo.repo_id}
    return row | {name: known[name] for name in properties if known.get(name) is not None}


def _sibling(stored: StoredFile, *, blobs: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"rfilename": stored.path}
    if blobs:
        row |= {"size": stored.size, "blobId": stored.oid}
        if stored.lfs:
            row["lfs"] = {"size": stored.size, "sha256": stored.sha256, "pointerSize": len(stored.pointer)}
    return row


def tree_rows(commit: Commit, under: str, *, recursive: bool, history: list[Commit]) -> list[dict[str, Any]] | None:
    """Files and folders at or below ``under``; None when there is no such folder.

    Args:
        commit: whose tree.
        under: a folder, or "" for the top.
        recursive: also what is in sub-folders.
        history: the commit and its ancestors to tell each file's last commit, or empty not to.
    """
    prefix = f"{under.rstrip('/')}/" if under else ""
    inside = [f for f in commit.files if f.path.startswith(prefix)]
    if under and not inside:
        return None
    rows: dict[str, dict[str, Any]] = {}
    for stored in inside:
        parts = stored.path[len(prefix) :].split("/")
        depths = range(1, len(parts)) if recursive else range(1, min(2, len(parts)))
        for depth in depths:
            folder = prefix + "/".join(parts[:depth])
            rows.setdefault(folder, _folder_row(commit, folder))
        if recursive or len(parts) == 1:
            rows[stored.path] = file_row(stored, history)
    return list(rows.values())


def _folder_row(commit: Commit, folder: str) -> dict[str, Any]:
    """A folder's oid only has to change with its content; it is not git's tree object."""
    content = "".join(f"{f.path}\0{f.sha256}\n" for f in commit.files if f.path.startswith(f"{folder}/"))
    oid = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": folder}


def file_row(stored: StoredFile, history: list[Commit]) -> dict[str, Any]:
    """One file as a tree has it, with its last commit if a history is given."""
    row: dict[str, Any] = {"type": "file", "oid": stored.oid, "size": stored.size, "path": stored.path}
    if stored.lfs:
        row["lfs"] = {"oid": stored.sha256, "size": stored.size, "pointerSize": len(stored.pointer)}
    if history:
        last = history[0]
        for older in history[1:]:
            if older.file(stored.path) != stored:
                break
            last = older
        row["lastCommit"] = {"id": last.sha, "title": title_of(last), "date": last.date}
    return row


def commit_row(repo: Repo, commit: Commit) -> dict[str, Any]:
    """One commit of a history."""
    body = commit.message.partition("\n")[2].strip()
    author = {"user": repo.repo_id.split("/")[0]}
    return {"id": commit.sha, "title": title_of(commit), "message": body, "authors": [author], "date": commit.date}


def title_of(commit: Commit) -> str:
    """The first line of the message."""
    return commit.message.partition("\n")[0]
