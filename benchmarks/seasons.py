"""The image before an event from the last passes, from the same season of earlier years, or from both: what does it do to a map?

    python -m benchmarks.seasons simulated --out simulated.csv [--model MODEL.safetensors]
    python -m benchmarks.seasons real --data FOLDER --out real.csv [--model MODEL.safetensors]

`simulated`: random regions of 192 px that no training used, four years each: false alarms in the year before the event, in which nothing
slid, and how well the event's own landslides are ranked and outlined a year later. `real`: the land crops of California (opera_rtc_s1/*), raw and
despeckled: false alarms within a season, and how well landslides of random regions injected into that very pair are ranked. Both with
one and with three passes after, each scored by the model and by the log-ratio averaged over 5 x 5 pixels. `each` is the lower
of the probabilities (of the scores) against the last passes and against those of the season, as `landslide-nb map --before each` makes it; `more` takes as many last passes as `both` has in all,
for averaging alone may help. A table goes to `--out`, pair by pair; what is in it
already is not done again. Choose on the simulated ones: the real ones are a check.
"""
import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.adapt import despeckled
from benchmarks.first_map import seasons
from benchmarks.place import TV, injected, regions
from landslide_nb.data.cube import open_cube
from landslide_nb.data.pair import log_ratio, make_pair
from landslide_nb.data.passes import BEFORES
from landslide_nb.data.simulate import simulate_archive
from landslide_nb.learn.calibration import recalibrate
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.nulls import MOST_PAIRS, null_pair, null_pairs, null_passes
from landslide_nb.mapping.place import fit_place, heard_nulls, scores_of, threshold_of_place
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights.base import random_region

PLACES = 16   # simulated places
SIDE = 192    # of a simulated place, pixels
STRENGTHS = (1, 2, 2, 1) # times its change, of each landslide injected into a real pair
LATER = np.timedelta64(5*365 + 1, 'D') # than a simulated event
YEAR, DAY = np.timedelta64(365, 'D'), np.timedelta64(1, 'D')
LEVEL = 3.    # dB, from which the log-ratio averaged over 5 x 5 pixels counts as a false alarm

def prob(model, pair):
    "The map of a model, with no place in it"
    return predict_scene(pair, *model, progress=False).values

def both_scores(model, pair):
    "{scorer: scores of each pixel} of a pair"
    return dict(model=prob(model, pair), log_ratio=log_ratio(pair, size=5).score.values)

def scores_by_rule(model, pairs):
    "{rule: {scorer: scores}} of the pairs of each rule, and of the lower of two"
    found = {rule: both_scores(model, pair) for rule, pair in pairs.items()}
    found['each'] = {name: np.minimum(found['last'][name], found['season'][name]) for name in found['last']}
    return found

def pairs_of(cube, event):
    "The pair of each rule, and one of as many last passes as `both` has in all"
    pairs = {rule: make_pair(cube, event, before=rule) for rule in BEFORES if rule != 'each'}
    return pairs | dict(more=make_pair(cube, event, passes=len(pairs['both'].passes_pre)))

def share(scores, threshold):
    "The share of the valid pixels that reach a threshold"
    valid = scores[np.isfinite(scores)]
    return float((valid >= threshold).mean())

def placed(p, nulls, own):
    "(probabilities, threshold) of the place, or of the model where there is no null pair"
    if not nulls: return p, own
    scores, of_nulls = scores_of(p), heard_nulls([scores_of(null) for null in nulls])
    curve = fit_place(scores, of_nulls)
    return recalibrate(p, curve), threshold_of_place(scores, of_nulls, curve)

def both_null_pairs(cube, pairs):
    "Null pairs of a cube of one track: against the last passes, and against those of the season"
    last, season = pairs['last'], pairs['season']
    splits = null_passes(cube, season)
    spread = {round(k) for k in np.linspace(0, len(splits) - 1, MOST_PAIRS)} if splits else ()
    for before, after in (splits[k] for k in sorted(spread)):
        just_before = [k for k in range(after[0] - len(last.passes_pre), after[0]) if k >= 0]
        yield null_pair(cube, last, just_before, after), null_pair(cube, season, before, after)

def null_maps(model, cube, pairs):
    "{rule: maps of its null pairs}"
    found = {rule: [prob(model, null) for null in null_pairs(cube, pair)] for rule, pair in pairs.items()}
    both = both_null_pairs(cube, pairs)
    found['each'] = [np.minimum(prob(model, last), prob(model, season)) for last, season in both]
    return found

def f1_of(truth, p, threshold):
    "F1 of the pixels that a map shows"
    found, slides = p >= threshold, truth == 1
    return 2*(found & slides).sum()/(found.sum() + slides.sum())

def ranking(scorer, scores, events, own):
    "False alarms where nothing slid, and how well landslides are ranked; `events`: (scores, truth) of each"
    level = own if scorer == 'model' else LEVEL
    ap = [average_precision(found, truth, scores=scorer != 'model') for found, truth in events]
    return dict(alarms=share(scores, level), auprc=float(np.mean(ap)))

def outlining(p, nulls, events, event_nulls, own):
    "What the place makes of a map in which nothing slid, and F1 of events; `events`: (probabilities, truth) of each"
    by_place, threshold = placed(p, nulls, own)
    f1 = [f1_of(truth, *placed(found, event_nulls, own)) for found, truth in events]
    facts = dict(expected=float(np.nanmean(by_place)), alarms_placed=share(by_place, threshold))
    return dict(facts, nulls=len(nulls), f1=float(np.mean(f1)))

def rows_of(key, model, cube, quiet, events, later=None):
    "A row a rule and scorer; `events`: ({rule: pair with landslides}, truth) of each; `later`: the cube of the events, if it is another"
    own = model[1]['calibration']['threshold']
    still, nulls = scores_by_rule(model, quiet), null_maps(model, cube, quiet)
    ranked = [(scores_by_rule(model, pairs), truth) for pairs, truth in events]
    event_nulls = nulls if later is None else null_maps(model, later, events[0][0])
    for rule, scorers in still.items():
        for name, scores in scorers.items():
            of_events = [(found[rule][name], truth) for found, truth in ranked]
            row = dict(key, before=rule, scorer=name) | ranking(name, scores, of_events, own)
            if name == 'model': row |= outlining(scores, nulls[rule], of_events, event_nulls[rule], own)
            yield row

def simulated_places():
    "(name, region, seed, whether despeckled)"
    drawn = ((seed, random_region(seed)) for seed in range(500_000, 500_400))
    clear = [(seed, region) for seed, region in drawn if region.contrast > .7][:PLACES]
    for k, (seed, region) in enumerate(clear): yield str(seed), region, seed, k % 2 == 1

def simulated_cube(region, seed, smooth):
    "Four years of a region, later than they are drawn, so that none of them is before Sentinel-1"
    cube = simulate_archive(region, seed, SIDE, years=4, passes=(10, 4), orbits=('ascending',))
    if smooth: cube = despeckled(cube, .3)
    return cube.assign_coords(time=cube.time + LATER)

def around(cube, day, after):
    "A cube up to some passes after a day, without those of this year that lie later"
    last = np.flatnonzero(cube.time.values > day)[:after]
    return cube.isel(time=[*np.flatnonzero(cube.time.values <= day), *last])

def simulated_rows(key, model, cube):
    "Rows of a simulated place: the year before the event is still, the landslides come a year later"
    start, end = (np.datetime64(cube.attrs[f'event_{word}']) + LATER for word in ('start', 'end'))
    still = around(cube, start + DAY - YEAR, key['after'])
    slid = around(cube, start + DAY, key['after'])
    quiet = pairs_of(still, (str(start - YEAR), str(end - YEAR)))
    event = pairs_of(slid, (str(start), str(end))), cube.landslides.values
    return rows_of(key, model, still, quiet, [event], slid)

def simulated(model, done):
    "Rows of simulated places"
    for name, region, seed, smooth in tqdm(list(simulated_places()), unit='place'):
        keys = [dict(place=name, smooth=smooth, after=after) for after in (1, 3)]
        if all(done(key) for key in keys): continue
        cube = simulated_cube(region, seed, smooth)
        for key in keys: yield key, simulated_rows(key, model, cube)

def real_events(times):
    "(first pass after, passes after) of the events with three passes of the same season before and an earlier year"
    for part in seasons(times):
        for k in part[3:]:
            if part[0] == 0: continue # no earlier year
            for after in (1, 3):
                if k + after - 1 <= part[-1]: yield k, after

def real_rows(key, model, cube, event, changes):
    "Rows of a real pair; `cube`: up to its last pass; `event`: last day before and first day after"
    quiet = pairs_of(cube, event)
    height, width = cube.sizes['y'], cube.sizes['x']
    events = []
    for (change, truth), strength in zip(changes, STRENGTHS):
        laid = {rule: injected(pair, change*strength, truth, key['smooth'])[0] for rule, pair in quiet.items()}
        events.append((laid, truth[:height, :width]))
    return rows_of(key, model, cube, quiet, events)

def real(model, done, data):
    "Rows of the land crops of California"
    changes = regions(100, len(STRENGTHS))
    folders = sorted((data/'opera_rtc_s1').iterdir())[1:] # the first is the sea
    jobs = [(folder, smooth) for folder in folders for smooth in (False, True)]
    for folder, smooth in tqdm(jobs, unit='crop'):
        cube = open_cube(folder).load()
        if smooth: cube = despeckled(cube, TV)
        days = [str(day)[:10] for day in cube.time.values]
        for k, after in real_events(cube.time.values):
            key = dict(place=f'{folder.name[-10:]} {days[k]}', smooth=smooth, after=after)
            if done(key): continue
            some = cube.isel(time=slice(0, k + after))
            yield key, real_rows(key, model, some, (days[k - 1], days[k]), changes)

def complete(found, out):
    "Add rows to a table until all are there"
    for key, rows in found:
        table = pd.concat([read(out), pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(out, index=False)
    return read(out)

def read(out):
    "The table so far"
    if not out.exists(): return pd.DataFrame(columns=['place', 'smooth', 'after'])
    return pd.read_csv(out, dtype=dict(place=str))

def summary(table, by):
    "Means and the worst over places"
    groups = table.groupby([*by, 'scorer', 'before'], sort=False)
    means = groups[['alarms', 'alarms_placed', 'expected', 'auprc', 'f1']].mean()
    worst = dict(worst=groups.alarms.max(), worst_placed=groups.alarms_placed.max())
    return means.assign(**worst, nulls=groups.nulls.mean(), pairs=groups.size())

MEASURES = ['auprc', 'f1', 'alarms', 'alarms_placed']

def less_last(wide, measure, rule):
    "A row a scorer: how a rule differs from the last passes"
    difference = (wide[measure, rule] - wide[measure, 'last']).dropna()
    by_place = difference.groupby(['scorer', 'place']).mean().groupby('scorer')
    errors = by_place.sem()
    for scorer, mean in by_place.mean().items():
        higher = difference.xs(scorer, level='scorer') > 0
        facts = dict(measure=measure, before=rule, scorer=scorer)
        yield dict(facts, more=mean, error=errors[scorer], better=float(higher.mean()))

def paired(table):
    "Each rule less the last passes, pair by pair: mean difference of AUPRC, F1 and false alarms, and its standard error over places"
    wide = table.pivot_table(index=['place', 'smooth', 'after', 'scorer'], columns='before', values=MEASURES)
    rows = []
    for measure in MEASURES:
        for rule in ('season', 'both', 'each', 'more'):
            if (measure, rule) in wide: rows += less_last(wide, measure, rule)
    return pd.DataFrame(rows)

def arguments():
    "What the command line says"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['simulated', 'real'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, required=True, help='table of all pairs')
    return p.parse_args()

def main():
    "Complete the table that is asked for, and print what it says"
    args = arguments()
    model = load_model(args.model)
    before = read(args.out)
    there = set(zip(before.place, before.smooth.astype(bool), before.after))
    def done(key):
        "Whether a pair is in the table already"
        return tuple(key.values()) in there
    found = simulated(model, done) if args.what == 'simulated' else real(model, done, args.data)
    table = complete(found, args.out)
    print(summary(table, ['after']).round(4).to_string())
    print(summary(table, ['smooth']).round(4).to_string())
    print(paired(table).round(4).to_string(index=False))

if __name__ == '__main__': main()
