"`benchmarks/results.md` is what `results.json` says, and says of each duel where and when it was measured."
import json
from pathlib import Path
from benchmarks.__main__ import days_and_commits, page
from benchmarks.duels import DUELS

root = Path(__file__).parents[1]
results = json.loads((root/'benchmarks'/'results.json').read_text())

def test_the_page_is_made_from_the_numbers(): assert (root/'benchmarks'/'results.md').read_text() == page(results)

def test_every_duel_says_its_machine_and_commit():
    for name, found in results.items(): assert found['machine']['commit'] and found['machine']['cpu'], name

def test_a_duel_that_is_older_or_was_never_run_is_named():
    new, old = (dict(machine=dict(commit=commit, day=day, cpu='a', cores=2))
                for commit, day in (('b1', '2026-11-29'), ('a0', '2026-11-28')))
    said = days_and_commits(dict(chips=old, memory=new))[0]
    assert 'newest numbers are of commit b1' in said and 'Not run on that commit: chips.' in said
    assert 'Never run' in said and 'learning' in said and len(DUELS) > 2
