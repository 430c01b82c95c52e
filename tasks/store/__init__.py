"""What is kept: artifacts by content digest (``artifacts``), and the ledger of facts and claims (``ledger``)."""
