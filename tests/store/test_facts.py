"""Facts are appended and never change, on both databases."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, StatementError

from tasks.domain.errors import InputError, ModelRefused
from tasks.domain.models import Evaluation
from tasks.domain.records import MergeCost
from tasks.domain.search import SearchFact
from tasks.store.tables import FACTS


def test_a_release_is_new_once_whatever_its_commit(ledger, samples):
    first = samples.release("v1")
    readme_only = first.model_copy(update={"ref": samples.ref("v1-readme")})
    assert ledger.record_release(first)
    assert not ledger.record_release(first)
    assert not ledger.record_release(readme_only)
    assert ledger.record_release(first.model_copy(update={"family": "other"}))
    assert ledger.releases("tiny") == [first]
    assert ledger.release_of(first.content_digest) == first
    assert ledger.release_of(samples.digest("unknown")) is None


def test_releases_come_in_the_order_in_which_they_were_released(ledger, samples):
    late, early = samples.release("v2", days=9), samples.release("v1", days=1)
    same_day = early.model_copy(
        update={"content_digest": samples.digest("v1b"), "seen_at": early.seen_at - timedelta(minutes=1)}
    )
    for release in (late, early, same_day):
        ledger.record_release(release)
    assert ledger.releases("tiny") == [same_day, early, late]


def test_the_last_state_of_a_repository_is_remembered_and_equal_ones_add_no_row(ledger, samples, clock):
    assert ledger.repo_seen("lab/m") is None
    assert ledger.record_repo_state("lab/m", "id-1", "a" * 40, samples.digest("x"))
    clock.forward(600)
    assert not ledger.record_repo_state("lab/m", "id-1", "a" * 40, samples.digest("x"))
    assert ledger.record_repo_state("lab/m", "id-2", "b" * 40, None)
    seen = ledger.repo_seen("lab/m")
    assert (seen.internal_id, seen.revision, seen.content_digest, seen.at) == ("id-2", "b" * 40, None, clock())
    assert _count(ledger, "repo_states") == 2
    assert ledger.was_anothers("lab/m", "id-2")
    assert ledger.was_anothers("lab/m", "id-3")
    assert not ledger.was_anothers("lab/n", "id-2")


def test_a_watch_is_recorded_when_there_is_news_and_counts_for_its_own_rule(ledger, clock):
    begun, found = clock(), {"lab/m", "lab/n"}
    assert ledger.watched_before("tiny", "rule", begun) is None
    assert ledger.record_watch("tiny", "rule", begun, found)
    assert ledger.watched_before("tiny", "rule", begun) is None  # before, and not at
    clock.forward(60)
    assert not ledger.record_watch("tiny", "rule", clock(), found)
    assert ledger.watched_before("tiny", "rule", clock()) == begun
    assert ledger.watched_before("tiny", "wider", clock()) is None
    assert ledger.watched_before("other", "rule", clock()) is None
    ledger.record_repo_state("other/m", "id-9", "a" * 40)
    assert not ledger.record_watch("tiny", "rule", clock(), found)  # news of another family's is none
    assert not ledger.record_watch("tiny", "rule", clock(), found | {f"lab/{number}" for number in range(900)})
    ledger.record_repo_state("lab/m", "id-1", "a" * 40)
    news = clock()
    assert ledger.record_watch("tiny", "rule", news, found)
    assert not ledger.record_watch("tiny", "rule", news, found)
    clock.forward(60)
    assert ledger.watched_before("tiny", "rule", clock()) == news
    assert ledger.record_watch("tiny", "wider", clock(), found)
    clock.forward(60)
    assert ledger.watched_before("tiny", "rule", clock()) is None
    assert ledger.record_watch("tiny", "rule", clock(), found)
    assert ledger.watched_before("tiny", "rule", clock()) is None  # what a rule missed meanwhile is not known


def test_a_revision_was_seen_first_under_whatever_name(ledger, clock):
    first = clock()
    ledger.record_repo_state("lab/m", "id-1", "a" * 40)
    clock.forward(60)
    ledger.record_repo_state("lab/n", "id-1", "a" * 40)
    ledger.record_repo_state("lab/x", "", "c" * 40)
    assert ledger.first_seen("lab/n", "id-1", "a" * 40) == first
    assert ledger.first_seen("lab/m", "id-2", "a" * 40) is None
    assert ledger.first_seen("lab/m", "id-1", "b" * 40) is None
    assert ledger.first_seen("lab/x", "", "c" * 40) == clock()
    assert ledger.first_seen("lab/y", "", "c" * 40) is None


def test_a_merge_is_found_by_its_key_with_the_lineage_that_made_it(ledger, samples):
    key, lineage = samples.digest("key"), samples.lineage()
    assert ledger.artifact_for(key) is None
    assert ledger.record_artifact(key, samples.artifact("merged"), lineage, 12.5)
    assert not ledger.record_artifact(key, samples.artifact("merged"), lineage, 11.0, 300_000_000)
    digest, found = ledger.artifact_for(key)
    assert (digest, found) == (samples.digest("merged"), lineage)
    assert ledger.lineage(digest) == lineage
    assert ledger.lineage(samples.digest("other")) is None


def test_what_a_merge_took_stands_beside_what_it_made(ledger, samples):
    key, other = samples.digest("key"), samples.digest("other")
    ledger.record_artifact(key, samples.artifact("merged"), samples.lineage(), 12.5, 5_000_000_000)
    ledger.record_artifact(other, samples.artifact("merged"), samples.lineage(), 3.0)
    assert ledger.merge_cost(key, samples.digest("merged")) == MergeCost(seconds=12.5, peak_bytes=5_000_000_000)
    assert ledger.merge_cost(other, samples.digest("merged")) == MergeCost(seconds=3.0, peak_bytes=None)
    assert ledger.merge_cost(key, samples.digest("another")) is None
    ledger.record_artifact(key, samples.artifact("another"), samples.lineage(), 20.0, 1)
    assert ledger.merge_cost(key, samples.digest("merged")).seconds == 12.5


def test_a_key_that_makes_other_bytes_is_logged_and_the_newest_counts(ledger, samples, caplog):
    key = samples.digest("key")
    ledger.record_artifact(key, samples.artifact("one"), samples.lineage(engine="1.0"), 1)
    ledger.record_artifact(key, samples.artifact("two"), samples.lineage(engine="2.0"), 1)
    assert ledger.artifact_for(key).digest == samples.digest("two")
    assert all(part in caplog.text for part in (samples.digest("one"), "1.0", samples.digest("two"), "2.0"))


def test_one_revision_has_one_content(ledger, samples):
    ref = samples.ref()
    assert ledger.record_fetched(ref, samples.digest("x"))
    assert not ledger.record_fetched(ref, samples.digest("x"))
    with pytest.raises(ModelRefused) as refused:
        ledger.record_fetched(ref, samples.digest("y"))
    assert all(part in str(refused.value) for part in (ref.revision, samples.digest("x"), samples.digest("y")))
    assert ledger.fetched(ref) == samples.digest("x")
    assert ledger.fetched(samples.ref("v9")) is None


def test_an_evaluation_comes_back_whole(ledger, samples):
    evaluation = samples.evaluation()
    assert ledger.record_evaluation(evaluation)
    assert not ledger.record_evaluation(evaluation)
    assert ledger.evaluation(evaluation.eval_key) == evaluation
    assert ledger.evaluations_of(evaluation.artifact_digest) == [evaluation]
    assert ledger.evaluation(samples.digest("none")) is None
    assert ledger.evaluations_of(samples.digest("none")) == []


def test_an_evaluation_without_scores_is_kept(ledger, samples):
    empty = Evaluation(eval_key=samples.digest("e"), artifact_digest=samples.digest("a"), scores=())
    assert ledger.record_evaluation(empty)
    assert ledger.evaluation(empty.eval_key) == empty


def test_other_scores_under_the_same_key_are_refused_and_all_differences_named(ledger, samples):
    first = samples.evaluation(right=2, n=3)
    ledger.record_evaluation(first)
    other = samples.evaluation(right=3, n=4)
    with pytest.raises(InputError) as refused:
        ledger.record_evaluation(other.model_copy(update={"scores": other.scores[:1]}))
    assert refused.value.problems == (
        "bpb_eu (bits_per_byte): recorded, and now missing",
        f"facts_eu (acc): {2 / 3} +/- 0.1 with n = 3 is recorded, not 0.75 +/- 0.1 with n = 4",
    )
    assert ledger.evaluation(first.eval_key) == first


def test_other_items_behind_the_same_score_are_refused(ledger, samples):
    first = samples.evaluation()
    ledger.record_evaluation(first)
    score = first.scores[0]
    turned = score.model_copy(update={"items": (*score.items[:2], score.items[2].model_copy(update={"value": 0.5}))})
    with pytest.raises(InputError, match=r"facts_eu.*1 of 3 items differ"):
        ledger.record_evaluation(first.model_copy(update={"scores": (turned, first.scores[1])}))


def test_the_latest_verdict_of_a_key_counts_and_all_are_kept(ledger, clock):
    undecided = {"family": "tiny", "target": "eu", "outcome": "undecided", "reasons": ["n = 40"]}
    assert ledger.record_verdict("k", "job", "undecided", undecided)
    assert not ledger.record_verdict("k", "job", "undecided", undecided)
    clock.forward(5)
    assert ledger.record_verdict("k", "job", "passed", {**undecided, "outcome": "passed"})
    latest = ledger.verdict("k")
    assert (latest.outcome, latest.at, latest.payload["reasons"]) == ("passed", clock(), ["n = 40"])
    assert [v.outcome for v in ledger.verdicts(family="tiny", target="eu")] == ["passed", "undecided"]
    assert ledger.verdicts(target="gl") == []
    assert ledger.verdict("unknown") is None


def test_the_latest_end_of_a_job_counts(ledger, samples):
    assert ledger.job_end("job") is None
    ledger.record_job_end("job", "failed", "the disk was full")
    ledger.record_job_end("job", "published", "better on facts_eu", samples.digest("a"), "run-2")
    end = ledger.job_end("job")
    assert (end.outcome, end.artifact_digest, end.flow_run_id) == ("published", samples.digest("a"), "run-2")


def test_a_hold_lasts_until_it_is_released(ledger):
    ledger.release_hold("never held")
    ledger.record_hold("a", "cancelled by hand")
    ledger.record_hold("a", "cancelled by hand")
    ledger.record_hold("b", "waits for approval")
    assert [(h.key, h.reason) for h in ledger.holds()] == [("a", "cancelled by hand"), ("b", "waits for approval")]
    ledger.release_hold("a", "empelt retry")
    assert [h.key for h in ledger.holds()] == ["b"]
    assert _count(ledger, "holds") == 3


def test_no_fact_can_be_changed_or_deleted(ledger, samples):
    claim = ledger.claim("job", "me", 60)
    ledger.record_release(samples.release())
    ledger.record_repo_state("lab/m", "id", "a" * 40)
    ledger.record_artifact(samples.digest("key"), samples.artifact("merged"), samples.lineage(), 1)
    ledger.record_fetched(samples.ref(), samples.digest("x"))
    ledger.record_evaluation(samples.evaluation())
    ledger.record_verdict("k", "job", "passed", {})
    ledger.record_job_end("job", "kept", "")
    ledger.record_hold("a", "")
    ledger.record_watch("tiny", "rule", samples.release().seen_at, ())
    ledger.switch_channel(
        "eu",
        digest=samples.digest("merged"),
        release=samples.ref(),
        target="eu",
        family="tiny",
        expected_generation=0,
        fence=claim.fence,
        claim_key="job",
    )
    ledger.acknowledge("eu", 1)
    ledger.record_job(samples.job())
    ledger.ask_approval(samples.request(samples.job(), samples.digest("merged")), "stronger")
    ledger.record_base_change("tiny", "eu", "retired", repo_id="lab/eu", details={"why": "old"})
    ledger.record_publication(samples.publication())
    ledger.record_outputs(samples.outputs(-2.0))
    ledger.record_audit(samples.audit("eu", 1))
    ledger.record_step("eu", "warm", ended="done", seconds=0.1, generation=1, digest=samples.digest("merged"))
    ledger.record_hearing(samples.digest("heard"), samples.digest("merged"), [1.5])
    search = {
        "key": samples.digest("search"),
        "job_key": samples.job().key,
        "chosen": None,
        "tried": (),
        "said": "none",
    }
    ledger.record_search(SearchFact(**search))
    for fact in FACTS:
        before = _rows(ledger, fact)
        assert before, f"{fact} holds nothing to try on"
        column = next(iter(before[0]._mapping))
        for change in (f"UPDATE {fact} SET {column} = {column}", f"DELETE FROM {fact}"):
            with pytest.raises(DBAPIError, match="facts are appended, never changed"), ledger._write() as connection:
                connection.execute(text(change))
        assert _rows(ledger, fact) == before


def test_a_moment_without_a_time_zone_is_refused(ledger, samples):
    naive = samples.release().model_copy(update={"released_at": datetime(2026, 11, 1)})  # noqa: DTZ001
    with pytest.raises(StatementError, match="2026-11-01T00:00:00 has no time zone"):
        ledger.record_release(naive)
    assert ledger.releases("tiny") == []


def _count(ledger, table):
    return len(_rows(ledger, table))


def _rows(ledger, table):
    with ledger._read() as connection:
        return connection.execute(text(f"SELECT * FROM {table}")).all()


def test_the_scores_of_an_artifact_are_the_newest_of_each_benchmark_without_items(ledger, samples):
    first = samples.evaluation(right=1, n=4)
    later = first.model_copy(
        update={
            "eval_key": samples.digest("later"),
            "scores": tuple(score.model_copy(update={"value": 0.75}) for score in first.scores),
        }
    )
    ledger.record_evaluation(first)
    ledger.record_evaluation(later)
    told = ledger.scores_of(first.artifact_digest)
    assert [(one["benchmark"], one["value"]) for one in told] == [
        (name, 0.75) for name in sorted(score.benchmark for score in first.scores)
    ]
    assert "items" not in told[0]
    assert ledger.scores_of(samples.digest("none")) == []
