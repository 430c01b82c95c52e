"""How each step is done. Files here are Prefect tasks, thin; folders are plain Python without Prefect.

domain (nouns) · engine (merge) · sources (where models come from) · harness (lm-eval) · endpoints (serving) ·
store (artifacts and ledger). ARCHITECTURE.md draws who may import whom.
"""
