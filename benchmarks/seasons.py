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
LEVEL = 3.    # dB, from which the log-ratio averaged over 5 x 5 pixels counts as a false alarm

def both_scores(model, pair):
    "{scorer: scores of each pixel} of a pair"
    return dict(model=predict_scene(pair, *model, progress=False).values, log_ratio=log_ratio(pair, size=5).score.values)

def scores_by_rule(model, pairs):
    "{rule: {scorer: scores}} of the pairs of each rule, and of the lower of two"
    found = {rule: both_scores(model, pair) for rule, pair in pairs.items()}
    found['each'] = {name: np.minimum(found['last'][name], found['season'][name]) for name in found['last']}
    return found

def pairs_of(cube, event):
    "The pair of each rule, and one of as many last passes as `both` has in all"
    pairs = {rule: make_pair(cube, event, before=rule) for rule in BEFORES if rule != 'each'}
    return pairs | dict(more=make_pair(cube, event, passes=len(pairs['both'].passes_pre)))

def share(scores, threshold): return float((scores[np.isfinite(scores)] >= threshold).mean())

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
    def prob(pair): return predict_scene(pair, *model, progress=False).values
    found = {rule: [prob(null) for null in null_pairs(cube, pair)] for rule, pair in pairs.items()}
    return found | dict(each=[np.minimum(*map(prob, nulls)) for nulls in both_null_pairs(cube, pairs)])

def f1_of(truth, p, threshold):
    "F1 of the pixels that a map shows"
    found, slides = p >= threshold, truth == 1
    return 2*(found & slides).sum()/(found.sum() + slides.sum())

def rows_of(key, model, cube, quiet, events, later=None):
    "A row a rule and scorer; `events`: ({rule: pair with landslides}, truth) of each; `later`: the cube of the events, if it is another"
    own = model[1]['calibration']['threshold']
    still, nulls = scores_by_rule(model, quiet), null_maps(model, cube, quiet)
    ranked = [(scores_by_rule(model, pairs), truth) for pairs, truth in events]
    event_nulls = nulls if later is None else null_maps(model, later, events[0][0])
    for rule, scorers in still.items():
        for name, scores in scorers.items():
            ap = [average_precision(found[rule][name], truth, scores=name != 'model') for found, truth in ranked]
            row = dict(key, before=rule, scorer=name, alarms=share(scores, own if name == 'model' else LEVEL), auprc=float(np.mean(ap)))
            if name == 'model':
                p, threshold = placed(scores, nulls[rule], own)
                of_events = [f1_of(truth, *placed(found[rule][name], event_nulls[rule], own)) for found, truth in ranked]
                row |= dict(expected=float(np.nanmean(p)), alarms_placed=share(p, threshold), nulls=len(nulls[rule]), f1=float(np.mean(of_events)))
            yield row

def simulated_places():
    "(name, region, seed, whether despeckled)"
    drawn = ((seed, random_region(seed)) for seed in range(500_000, 500_400))
    clear = [(seed, region) for seed, region in drawn if region.contrast > .7][:PLACES]
    for k, (seed, region) in enumerate(clear): yield str(seed), region, seed, k % 2 == 1

def around(cube, day, after):
    "A cube up to some passes after a day, without those of this year that lie later"
    last = np.flatnonzero(cube.time.values > day)[:after]
    return cube.isel(time=[*np.flatnonzero(cube.time.values <= day), *last])

def simulated(model, done):
    "Rows of simulated places"
    for name, region, seed, smooth in tqdm(list(simulated_places()), unit='place'):
        keys = [dict(place=name, smooth=smooth, after=after) for after in (1, 3)]
        if all(done(key) for key in keys): continue
        cube = simulate_archive(region, seed, SIDE, years=4, passes=(10, 4), orbits=('ascending',))
        if smooth: cube = despeckled(cube, .3)
        cube = cube.assign_coords(time=cube.time + LATER) # so that none of its years is before Sentinel-1
        start, end = (np.datetime64(cube.attrs[f'event_{word}']) + LATER for word in ('start', 'end'))
        year = np.timedelta64(365, 'D')
        for key in keys:
            still = around(cube, start + np.timedelta64(1, 'D') - year, key['after'])
            slid = around(cube, start + np.timedelta64(1, 'D'), key['after'])
            quiet = pairs_of(still, (str(start - year), str(end - year)))
            yield key, rows_of(key, model, still, quiet, [(pairs_of(slid, (str(start), str(end))), cube.landslides.values)], slid)

def real_events(times):
    "(first pass after, passes after) of the events with three passes of the same season before and an earlier year"
    for part in seasons(times):
        for k in part[3:]:
            early = times[:part[0]]
            if not len(early): continue
            yield from ((k, after) for after in (1, 3) if k + after - 1 <= part[-1])

def real(model, done, data):
    "Rows of the land crops of California"
    changes = regions(100, len(STRENGTHS))
    jobs = [(folder, smooth) for folder in sorted((data/'opera_rtc_s1').iterdir())[1:] for smooth in (False, True)] # the first is the sea
    for folder, smooth in tqdm(jobs, unit='crop'):
        cube = open_cube(folder).load()
        if smooth: cube = despeckled(cube, TV)
        days = [str(day)[:10] for day in cube.time.values]
        for k, after in real_events(cube.time.values):
            key = dict(place=f'{folder.name[-10:]} {days[k]}', smooth=smooth, after=after)
            if done(key): continue
            some = cube.isel(time=slice(0, k + after))
            quiet = pairs_of(some, (days[k - 1], days[k]))
            events = []
            for (change, truth), strength in zip(changes, STRENGTHS):
                laid = {rule: injected(pair, change*strength, truth, smooth)[0] for rule, pair in quiet.items()}
                events.append((laid, truth[:cube.sizes['y'], :cube.sizes['x']]))
            yield key, rows_of(key, model, some, quiet, events)

def complete(found, out):
    "Add rows to a table until all are there"
    for key, rows in found:
        table = pd.concat([read(out), pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(out, index=False)
    return read(out)

def read(out): return pd.read_csv(out, dtype=dict(place=str)) if out.exists() else pd.DataFrame(columns=['place', 'smooth', 'after'])

def summary(table, by):
    "Means and the worst over places"
    groups = table.groupby([*by, 'scorer', 'before'], sort=False)
    means = groups[['alarms', 'alarms_placed', 'expected', 'auprc', 'f1']].mean()
    return means.assign(worst=groups.alarms.max(), worst_placed=groups.alarms_placed.max(), nulls=groups.nulls.mean(), pairs=groups.size())

def paired(table):
    "Each rule less the last passes, pair by pair: mean difference of AUPRC, F1 and false alarms, and its standard error over places"
    wide = table.pivot_table(index=['place', 'smooth', 'after', 'scorer'], columns='before', values=['auprc', 'f1', 'alarms', 'alarms_placed'])
    rows = []
    for measure in ('auprc', 'f1', 'alarms', 'alarms_placed'):
        for rule in ('season', 'both', 'each', 'more'):
            if (measure, rule) not in wide: continue
            difference = (wide[measure, rule] - wide[measure, 'last']).dropna()
            by_place = difference.groupby(['scorer', 'place']).mean().groupby('scorer')
            for scorer, mean in by_place.mean().items():
                rows.append(dict(measure=measure, before=rule, scorer=scorer, more=mean, error=by_place.sem()[scorer], better=float((difference.xs(scorer, level='scorer') > 0).mean())))
    return pd.DataFrame(rows)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['simulated', 'real'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, required=True, help='table of all pairs')
    args = p.parse_args()
    model = load_model(args.model)
    there = read(args.out)
    there = set(zip(there.place, there.smooth.astype(bool), there.after))
    def done(key): return tuple(key.values()) in there
    found = simulated(model, done) if args.what == 'simulated' else real(model, done, args.data)
    table = complete(found, args.out)
    print(summary(table, ['after']).round(4).to_string())
    print(summary(table, ['smooth']).round(4).to_string())
    print(paired(table).round(4).to_string(index=False))

if __name__ == '__main__': main()
