"""What was published where, on both databases: once, and never another thing under the same key."""

import pytest

from tasks.domain.errors import InputError


def test_a_publication_is_recorded_once_and_read_back(ledger, samples):
    done = samples.publication()
    assert ledger.record_publication(done)
    assert not ledger.record_publication(done.model_copy(update={"how": "adopted", "seconds": 0.1}))
    assert ledger.publication("https://hub", "acme/tiny-eu", done.merge_key) == done
    assert ledger.publications() == ledger.publications(done.digest) == [done]
    assert ledger.publications(samples.digest("other")) == []
    assert ledger.publication("https://another", "acme/tiny-eu", done.merge_key) is None


@pytest.mark.parametrize("other", [{"name": "v2"}, {"commit": "d" * 40}])
def test_another_artifact_or_commit_under_the_same_key_is_refused_with_both(ledger, samples, other):
    first, second = samples.publication(), samples.publication(**other)
    ledger.record_publication(first)
    with pytest.raises(InputError, match="the recorded one stays") as refusal:
        ledger.record_publication(second)
    for told in (first.digest[:12], second.digest[:12], first.commit[:12], second.commit[:12]):
        assert told in str(refusal.value)
    assert ledger.publications() == [first]
