"""Serving: what a flow asks of an endpoint, the agent that makes it true, the gateway that answers people.

Nothing here imports Prefect, torch or vLLM: vLLM is a server that we talk to. The ledger is reached through the
Protocols of ``protocol.py`` only; the ``empelt`` command hands the real one in.
"""
