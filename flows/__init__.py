"""What happens, in which order. Only flows: no I/O, no torch, at most 80 lines a file.

watch_hub (new releases -> due jobs) · remerge_release (one release x one target) · merge_candidate (its step on the gpu
pool) · publish_model (moves a channel) · approve_release (a person's word) · backfill_base (older releases) ·
rollback_channel (moves it back) · upload_model (to a Hub) · audit_serving (does what was judged answer?) ·
collect_garbage (what nothing refers to any more).

File names have two words: Prefect may load a flow file as a top-level module, and `evaluate` or `publish` would then
shadow somebody's package.
"""
