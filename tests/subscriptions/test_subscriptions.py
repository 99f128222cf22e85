"""subscribe() and what follows from it: roles, mappings, grants."""

import pytest
from conftest import reads, refuses


def test_a_token_works_at_once(sales):
    sales.sql("SELECT immuta.subscribe('ann', 'sales.orders')")
    assert sales.role("ann") == "user_ann"
    assert reads(sales, "ann", "SELECT count(*) FROM sales.orders") == [(3,)]
    assert sales.access("ann", "sales.orders") == "READ"
    assert sales.access("ann", "sales.customers") is None
    assert sales.drift() == []
