"""The ledger tests' two databases, for the kills around each write."""

from tests.store.conftest import postgres as postgres
from tests.store.conftest import url as url
