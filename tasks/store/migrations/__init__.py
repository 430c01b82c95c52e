"""Schema versions of the ledger, run by ``tasks.store.database.migrate``; never edited once released."""
