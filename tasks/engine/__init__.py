"""The merge engine: streams language and instruct deltas over safetensors checkpoints, with torch and nothing of ours.

The way of a merge: ``recipe`` (what is wanted, as data) -> ``plan`` (every output byte has its place, or a refusal) ->
``stream`` (blocks in, blocks out, bounded memory) -> ``writer`` (digests, temporary folder, rename). ``merge`` joins
them; ``recipe`` loads without torch, so that a catalog can be validated anywhere.
"""
