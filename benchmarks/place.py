"""Do probabilities and threshold move rightly with the place, without any label?

    python -m benchmarks.place real --data FOLDER --out place.csv
    python -m benchmarks.place events
    python -m benchmarks.place landslide --data FOLDER
    python -m benchmarks.place regions --out regions.csv
    python -m benchmarks.place halves
    python -m benchmarks.place pixels --data FOLDER

`real`: the land crops of California (opera_rtc_s1/*), raw and despeckled, at the latest and at earlier pairs within a season and across
years; landslides of random regions are injected into the pair, as they are, twice and three times as strong. Three rules are compared:
the model alone; its threshold raised until two in a thousand pixels of the worst null pair are left; and the curve and threshold
of the place (`settle_place`). `events`: the two embedded events. `landslide`: the real one (png_2024), a check: nothing was chosen on it. `regions`: simulated regions that neither the weights nor their calibration
saw, each with up to nine passes before; there the share of false pixels that a map states is compared with the real one, and the interval with it; its numbers
were fitted on the regions of even seeds. `halves`: maps of still regions with landslides beside maps of restless regions without: what is found of the landslides,
against the still region alone. `pixels`: the real landslide
in pixels a third as wide, without and with the speckle of a product of 10 m, as it is and averaged back before the network.
"""
import argparse
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from scipy.special import expit
from tqdm import tqdm

from benchmarks.adapt import despeckled
from benchmarks.first_map import quiet_pairs
from landslide_nb.core import EVENTS
from landslide_nb.data.cube import open_cube
from landslide_nb.data.events import event_cube
from landslide_nb.data.pair import make_pair
from landslide_nb.learn.calibration import FALSE_ALARMS, recalibrate
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.mapping import scene_pair
from landslide_nb.mapping.nulls import null_pairs
from landslide_nb.mapping.place import (
    false_share, false_witnesses, fit_place, heard_nulls, scores_of, threshold_of_place,
)
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights.adapt import slide_change
from landslide_nb.weights.base import despeckle, random_cube, random_region

STRENGTHS = (1, 2, 3) # times the change of a simulated landslide, in dB
TV = .2               # weight of total variation of the despeckled crops
ENOUGH = 30           # pixels that a map marks, from which its share of false ones is looked at

def prob(model, pair):
    "The map of a model, with no place in it"
    return predict_scene(pair, *model, progress=False).values

def null_maps(model, cube, pair):
    "The maps of the null pairs of a pair"
    return [prob(model, null) for null in null_pairs(cube, pair)]

def own_threshold(model):
    "Where polygons start by the model alone"
    return model[1]['calibration']['threshold']

def pair_of(model, cube):
    "The pair of a cube that a model maps"
    return scene_pair(cube, model[1]['input']['channels'])

def settled(own, nulls):
    "(curve, threshold) of a place, from scores"
    nulls = heard_nulls(nulls)
    curve = fit_place(own, nulls)
    return curve, threshold_of_place(own, nulls, curve)

def rules(p, nulls, own):
    "{rule: (probabilities, threshold)}"
    curve, threshold = settled(scores_of(p), [scores_of(null) for null in nulls])
    worst = max(float(np.nanquantile(null, 1 - FALSE_ALARMS)) for null in nulls)
    return {
        'model alone': (p, own),
        'threshold raised': (p, max(own, worst)),
        'place': (recalibrate(p, curve), threshold),
    }

def wrong(p, nulls):
    "Lowest, likely and highest share of false pixels that a place states"
    own, null_scores = scores_of(p), heard_nulls([scores_of(null) for null in nulls])
    curve, threshold = settled(own, null_scores)
    def above(scores):
        "Which scores the map shows"
        return recalibrate(expit(scores), curve) >= threshold
    witnesses = false_witnesses(own, null_scores, above)
    shares = false_share(witnesses, len(null_scores)) if witnesses else [np.nan]*3
    return dict(zip(('low', 'likely', 'high'), shares))

def scores(p, truth, threshold):
    "Pixels found, right and mapped, and precision, recall and F1 of one map"
    valid = np.isfinite(p)
    found, slides = (p >= threshold) & valid, (truth == 1) & valid
    hits, n = int((found & slides).sum()), int(found.sum())
    mapped = int(slides.sum())
    return dict(
        precision=hits/max(n, 1),
        recall=hits/mapped,
        f1=2*hits/(n + mapped),
        expected=float(p[valid].sum()/mapped),
        false_share=1 - float(p[found].mean()) if n else np.nan,
        hits=hits,
        found=n,
        mapped=mapped,
    )

def regions(side, n=8):
    "Change and truth of landslides of random regions that can be seen"
    drawn = [(seed, random_region(seed)) for seed in range(9_000_000, 9_000_200)]
    seen = [(seed, region) for seed, region in drawn if region.contrast > .7]
    return [slide_change(replace(region, pixel=30., share=.02, extent=1.), seed, side) for seed, region in seen[:n]]

def injected(pair, change, truth, smooth):
    "The pair with landslides in it, and their truth"
    h, w = pair.sizes['y'], pair.sizes['x']
    if smooth: change = np.log10([despeckle(10**(one/10), 'tv', TV) for one in change])*10
    out = pair[['vv', 'vh']].copy(deep=True).assign_attrs(pair.attrs)
    for name, one in zip(('vv', 'vh'), change): out[name].values[1] += one[:h, :w]
    return out, truth[:h, :w]

def crops(data):
    "(name, whether despeckled, cube) of the real crops"
    for folder in sorted((data/'opera_rtc_s1').iterdir())[1:]: # the first is the sea
        for smooth in (False, True):
            cube = open_cube(folder).load()
            if smooth: cube = despeckled(cube, TV)
            yield folder.name[-10:], smooth, cube

def places(data):
    "(name, whether despeckled, kind, cube up to the pair, pair) of the real crops"
    for name, smooth, cube in crops(data):
        days = [str(day)[:10] for day in cube.time.values]
        for k, (kind, pre, post) in enumerate(quiet_pairs(cube)):
            pair = make_pair(cube.isel(time=[*pre, *post]), (days[pre[-1]], days[post[0]]), passes=None)
            up_to_pair = cube.isel(time=[*range(pre[-1] + 1), *post])
            yield f'{name} {k}', smooth, kind, up_to_pair, pair

def quiet_facts(maps):
    "{rule: false alarms, and the share that is expected} of a pair in which nothing slid"
    def facts(p, threshold):
        "Those of one map"
        return dict(alarms=float((p >= threshold).mean()), quiet_expected=float(np.nanmean(p)))
    return {rule: facts(p, threshold) for rule, (p, threshold) in maps.items()}

def rows_of_place(key, model, cube, pair, changes):
    "Rows of one real pair: of each strength, injection and rule"
    own, nulls = own_threshold(model), null_maps(model, cube, pair)
    quiet = quiet_facts(rules(prob(model, pair), nulls, own))
    rows = []
    for strength, (change, truth) in product(STRENGTHS, changes):
        event, slides = injected(pair, change*strength, truth, key['smooth'])
        for rule, (p, threshold) in rules(prob(model, event), nulls, own).items():
            facts = dict(key, nulls=len(nulls), strength=strength, rule=rule)
            rows.append(facts | quiet[rule] | scores(p, slides, threshold))
    return rows

def real(model, data, out):
    "One row a place, rule and injection; places in the table already are not done again"
    changes = regions(100)
    table = pd.read_csv(out) if out.exists() else pd.DataFrame()
    done = set(zip(table.place, table.smooth)) if len(table) else set()
    for name, smooth, kind, cube, pair in tqdm(list(places(data)), unit='place'):
        if (name, smooth) in done: continue
        rows = rows_of_place(dict(place=name, smooth=smooth, kind=kind), model, cube, pair, changes)
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(out, index=False)
    return table

def summary(table, by):
    "Means over maps, pooled precision and recall, and the worst false alarms"
    groups = table.groupby(by, sort=False)
    sums = groups[['hits', 'found', 'mapped']].sum()
    means = groups[['precision', 'recall', 'f1', 'expected']].mean()
    pooled = means.assign(pooled_precision=sums.hits/sums.found, pooled_recall=sums.hits/sums.mapped)
    alarms = dict(alarms=groups.alarms.mean(), worst_alarms=groups.alarms.max())
    return pooled.assign(**alarms, quiet_expected=groups.quiet_expected.mean()).round(4)

def scored_rules(p, truth, nulls, model):
    "(rule, row) of a map with truth"
    for rule, (by_rule, threshold) in rules(p, nulls, own_threshold(model)).items():
        yield rule, dict(rule=rule, threshold=threshold, **scores(by_rule, truth, threshold))

def one_map(name, model, cube, pair):
    "Rows of one scene with truth"
    p, truth = prob(model, pair), cube.landslides.values
    nulls = null_maps(model, cube, pair)
    print(f'{name}: {len(nulls)} null pairs, AUPRC {average_precision(p, truth):.3f}')
    return [dict(scene=name, **row) for _, row in scored_rules(p, truth, nulls, model)]

def events(model):
    "The embedded events"
    rows = []
    for name in ('demo_a', 'demo_b'):
        cube = event_cube(name)
        rows += one_map(name, model, cube, pair_of(model, cube))
    return pd.DataFrame(rows)

def real_landslide(data):
    "The cube of the real landslide"
    return open_cube(data/'png_2024'/'png_landslide_2024_track9.nc').load()

PASSES_AFTER = {'first pass after': 1, 'three passes after': 3, 'all passes after': 99}

def landslide(model, data):
    "The real landslide, by passes after it"
    cube, rows = real_landslide(data), []
    after = EVENTS['mulitaka'].is_post(cube.time.values)
    for name, n in PASSES_AFTER.items():
        some = cube.isel(time=np.flatnonzero(~after | (np.cumsum(after) <= n)))
        for passes in (3, None):
            pair = make_pair(some, 'mulitaka', passes=passes)
            rows += one_map(f'{name}, {passes or "all"} a side', model, some, pair)
    return pd.DataFrame(rows)

REGIONS = range(300_000, 300_080)

def region_rows(model, seed):
    "Rows of a simulated region"
    cube = random_cube(seed, before=9)
    truth = cube.landslides.values
    if truth.sum() < 30: return []
    pair = pair_of(model, cube)
    p, nulls = prob(model, pair), null_maps(model, cube, pair)
    facts = dict(seed=seed, any_time=random_region(seed).any_time, auprc=average_precision(p, truth))
    stated = dict(place=wrong(p, nulls))
    return [facts | row | stated.get(rule, {}) for rule, row in scored_rules(p, truth, nulls, model)]

def simulated(model, out):
    "One row a region and rule; regions in the table already are not done again"
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['seed'])
    done = set(table.seed)
    for seed in tqdm([seed for seed in REGIONS if seed not in done], unit='region'):
        rows = pd.DataFrame(region_rows(model, seed))
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        if len(table): table.to_csv(out, index=False)
    return table

def truthful(table):
    "Means over regions, and how far the false share that a map states lies from the real one, where it marks 30 pixels or more"
    marked = table[table.found >= ENOUGH]
    false = 1 - marked.precision
    off = (false - marked.false_share).abs()
    said = marked.assign(real=false, off=off, close=off <= .1)
    by_rule = said.groupby('rule')
    means = table.groupby('rule', sort=False)[['auprc', 'precision', 'recall', 'f1']].mean()
    shares = by_rule[['false_share', 'real', 'off']].mean()
    return means.join(shares).join(by_rule.close.mean().rename('within .1')).round(3)

def intervals(table):
    "How often the real share of false pixels lies in the interval that the place states, in regions it was fitted on and in others"
    marked = table[(table.rule == 'place') & (table.found >= ENOUGH)]
    false = 1 - marked.precision
    said = marked.assign(
        real=false,
        regions=np.where(marked.seed % 2, 'others', 'fitted on'),
        inside=false.between(marked.low, marked.high),
        width=marked.high - marked.low,
        off=(marked.likely - false).abs(),
    )
    groups = said.groupby('regions')
    means = groups[['false_share', 'likely', 'real', 'off', 'inside', 'width']].mean()
    return means.assign(n=groups.size()).round(3)

HALVES = range(300_000, 300_024)

def maps_of_regions(model):
    "(scores of the pair, truth, scores of the null pairs) of regions with landslides"
    for seed in tqdm(HALVES, unit='region'):
        cube = random_cube(seed, before=9)
        truth = cube.landslides.values
        if truth.sum() < 50: continue
        pair = pair_of(model, cube)
        p = prob(model, pair)
        yield scores_of(p), truth[np.isfinite(p)], [scores_of(null) for null in null_maps(model, cube, pair)]

def unrest(region):
    "What the model expects in the null pairs of a region of `maps_of_regions`"
    nulls = region[2]
    return np.mean([expit(null).mean() for null in nulls])

def recall(own, truth, place):
    "The share of a region's landslides that the curve and the threshold of a place show"
    curve, threshold = place
    shown = recalibrate(expit(own), curve) >= threshold
    return float(shown[truth == 1].mean())

def place_beside(own, nulls, restless):
    "(curve, threshold) of a region beside a restless one, whose last null pair stands for a map in which nothing slid"
    *others, last = restless[2]
    both = [np.concatenate(two) for two in zip(nulls, [*others, others[0]])]
    return settled(np.concatenate([own, last]), both)

def halves(model):
    "Recall of the landslides of still regions, alone and beside a restless region in which nothing slid"
    found = sorted(maps_of_regions(model), key=unrest)
    still, restless = found[:len(found)//3], found[-len(found)//3:]
    rows = []
    for own, truth, nulls in still:
        alone = recall(own, truth, settled(own, nulls))
        rows += [dict(alone=alone, beside=recall(own, truth, place_beside(own, nulls, one))) for one in restless]
    table = pd.DataFrame(rows)
    table['less'] = table.alone - table.beside
    shown = table.describe().loc[['count', 'mean', 'min', '25%', '50%', '75%', 'max']]
    return shown.assign(**{'within .05': (table.less <= .05).mean()})

def finer(pair, looks, seed=0, factor=3):
    "A pair in smaller pixels, each moment with speckle of so many looks (None: none)"
    rng = np.random.default_rng(seed)
    out = {}
    for band in ('vv', 'vh'):
        power = 10**(pair[band].values/10)
        power = power.repeat(factor, 1).repeat(factor, 2)
        if looks: power = power*rng.gamma(looks, 1/looks, power.shape)
        out[band] = ('moment', 'y', 'x'), (10*np.log10(power)).astype('float32')
    height, width = power.shape[1:]
    step = float(pair.x[1] - pair.x[0])/factor
    y = float(pair.y[0]) - step*np.arange(height)
    x = float(pair.x[0]) + step*np.arange(width)
    fine = xr.Dataset(out).assign_coords(moment=pair.moment, y=y, x=x).assign_attrs(pair.attrs)
    return fine.rio.write_crs(pair.rio.crs)

def coarser(pair, factor=3):
    "A pair averaged in power over squares of pixels"
    power = 10**(pair[['vv', 'vh']]/10)
    averaged = power.coarsen(y=factor, x=factor).mean()
    in_db = (10*np.log10(averaged)).astype('float32')
    return in_db.assign_attrs(pair.attrs).rio.write_crs(pair.rio.crs)

LOOKS = {'10 m, bare': None, '10 m, 12 looks': 12, '10 m, 4 looks': 4}

def pixels(model, data):
    "AUPRC of the real landslide by size and noise of the pixels, with no place"
    cube = real_landslide(data)
    pair, truth = make_pair(cube, 'mulitaka', passes=None), cube.landslides.values
    fine_truth = truth.repeat(3, 0).repeat(3, 1)
    rows = [dict(pixels='30 m, as it is', native=average_precision(prob(model, pair), truth))]
    for name, looks in LOOKS.items():
        fine = finer(pair, looks)
        native = average_precision(prob(model, fine), fine_truth)
        averaged = average_precision(prob(model, coarser(fine)), truth)
        rows.append(dict(pixels=name, native=native, averaged=averaged))
    return pd.DataFrame(rows)

def say(table):
    "Print a table"
    print(table.round(3).to_string())

def say_regions(table):
    "Print what the table of simulated regions says"
    print(truthful(table).to_string())
    print(truthful(table[table.any_time.astype(bool)]).to_string())
    print(intervals(table).to_string())

def say_real(table):
    "Print what the table of real places says"
    print(summary(table, 'rule').to_string())
    print(summary(table, ['strength', 'rule']).to_string())

def arguments():
    "What the command line says"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['real', 'events', 'landslide', 'regions', 'halves', 'pixels'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, help='table of all places')
    return p.parse_args()

def main():
    "Make and print the tables that are asked for"
    args = arguments()
    model = load_model(args.model)
    if args.what == 'events': say(events(model))
    if args.what == 'landslide': say(landslide(model, args.data))
    if args.what == 'pixels': say(pixels(model, args.data))
    if args.what == 'halves': say(halves(model))
    if args.what == 'regions': say_regions(simulated(model, args.out))
    if args.what == 'real': say_real(real(model, args.data, args.out))

if __name__ == '__main__': main()
