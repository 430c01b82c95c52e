"""Nothing of torch: the launcher imports it beside vLLM, and an instance started plainly uses none of it."""
