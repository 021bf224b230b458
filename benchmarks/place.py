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
from landslide_nb.mapping.place import false_share, false_witnesses, fit_place, heard_nulls, scores_of, threshold_of_place
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights.adapt import slide_change
from landslide_nb.weights.base import despeckle, random_cube, random_region

STRENGTHS = (1, 2, 3) # times the change of a simulated landslide, in dB
TV = .2               # weight of total variation of the despeckled crops

def prob(model, pair):
    "The map of a model, with no place in it"
    return predict_scene(pair, *model, progress=False).values

def settled(own, nulls):
    "(curve, threshold) of a place, from scores"
    nulls = heard_nulls(nulls)
    curve = fit_place(own, nulls)
    return curve, threshold_of_place(own, nulls, curve)

def rules(p, nulls, own):
    "{rule: (probabilities, threshold)}"
    curve, threshold = settled(scores_of(p), [scores_of(null) for null in nulls])
    worst = max(float(np.nanquantile(null, 1 - FALSE_ALARMS)) for null in nulls)
    return {'model alone': (p, own), 'threshold raised': (p, max(own, worst)), 'place': (recalibrate(p, curve), threshold)}

def wrong(p, nulls):
    "Lowest, likely and highest share of false pixels that a place states"
    own, null_scores = scores_of(p), heard_nulls([scores_of(null) for null in nulls])
    curve, threshold = settled(own, null_scores)
    witnesses = false_witnesses(own, null_scores, lambda scores: recalibrate(expit(scores), curve) >= threshold)
    return dict(zip(('low', 'likely', 'high'), false_share(witnesses, len(null_scores)) if witnesses else [np.nan]*3))

def scores(p, truth, threshold):
    "Pixels found, right and mapped, and precision, recall and F1 of one map"
    valid = np.isfinite(p)
    found, slides = (p >= threshold) & valid, (truth == 1) & valid
    hits, n, mapped = int((found & slides).sum()), int(found.sum()), int(slides.sum())
    return dict(precision=hits/max(n, 1), recall=hits/mapped, f1=2*hits/(n + mapped), expected=float(p[valid].sum()/mapped),
                false_share=1 - float(p[found].mean()) if n else np.nan, hits=hits, found=n, mapped=mapped)

def regions(side, n=8):
    "Change and truth of landslides of random regions that can be seen"
    from dataclasses import replace
    drawn = ((seed, random_region(seed)) for seed in range(9_000_000, 9_000_200))
    seen = [(seed, replace(region, pixel=30., share=.02, extent=1.)) for seed, region in drawn if region.contrast > .7]
    return [slide_change(region, seed, side) for seed, region in seen[:n]]

def injected(pair, change, truth, smooth):
    "The pair with landslides in it, and their truth"
    h, w = pair.sizes['y'], pair.sizes['x']
    if smooth: change = np.log10([despeckle(10**(one/10), 'tv', TV) for one in change])*10
    out = pair[['vv', 'vh']].copy(deep=True).assign_attrs(pair.attrs)
    for name, one in zip(('vv', 'vh'), change): out[name].values[1] += one[:h, :w]
    return out, truth[:h, :w]

def places(data):
    "(name, whether despeckled, kind, cube up to the pair, pair) of the real crops"
    for folder in sorted((data/'opera_rtc_s1').iterdir())[1:]: # the first is the sea
        for smooth in (False, True):
            cube = open_cube(folder).load()
            if smooth: cube = despeckled(cube, TV)
            days = [str(day)[:10] for day in cube.time.values]
            for k, (kind, pre, post) in enumerate(quiet_pairs(cube)):
                pair = make_pair(cube.isel(time=[*pre, *post]), (days[pre[-1]], days[post[0]]), passes=None)
                yield f'{folder.name[-10:]} {k}', smooth, kind, cube.isel(time=[*range(pre[-1] + 1), *post]), pair

def real(model, data, out):
    "One row a place, rule and injection; places in the table already are not done again"
    own, changes = model[1]['calibration']['threshold'], regions(100)
    table = pd.read_csv(out) if out.exists() else pd.DataFrame()
    done = set(zip(table.place, table.smooth)) if len(table) else set()
    for name, smooth, kind, cube, pair in tqdm(list(places(data)), unit='place'):
        if (name, smooth) in done: continue
        nulls = [prob(model, null) for null in null_pairs(cube, pair)]
        quiet = {rule: dict(alarms=float((p >= t).mean()), quiet_expected=float(np.nanmean(p))) for rule, (p, t) in rules(prob(model, pair), nulls, own).items()}
        rows = []
        for strength in STRENGTHS:
            for change, truth in changes:
                event, slides = injected(pair, change*strength, truth, smooth)
                for rule, (p, t) in rules(prob(model, event), nulls, own).items():
                    rows.append(dict(place=name, smooth=smooth, kind=kind, nulls=len(nulls), strength=strength, rule=rule, **quiet[rule], **scores(p, slides, t)))
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(out, index=False)
    return table

def summary(table, by):
    "Means over maps, pooled precision and recall, and the worst false alarms"
    groups = table.groupby(by, sort=False)
    sums = groups[['hits', 'found', 'mapped']].sum()
    means = groups[['precision', 'recall', 'f1', 'expected']].mean()
    return means.assign(pooled_precision=sums.hits/sums.found, pooled_recall=sums.hits/sums.mapped,
                        alarms=groups.alarms.mean(), worst_alarms=groups.alarms.max(), quiet_expected=groups.quiet_expected.mean()).round(4)

def one_map(name, model, cube, pair):
    "Rows of one scene with truth"
    p, truth = prob(model, pair), cube.landslides.values
    nulls = [prob(model, null) for null in null_pairs(cube, pair)]
    print(f'{name}: {len(nulls)} null pairs, AUPRC {average_precision(p, truth):.3f}')
    return [dict(scene=name, rule=rule, threshold=t, **scores(q, truth, t)) for rule, (q, t) in rules(p, nulls, model[1]['calibration']['threshold']).items()]

def events(model):
    "The embedded events"
    rows = []
    for name in ('demo_a', 'demo_b'):
        cube = event_cube(name)
        rows += one_map(name, model, cube, scene_pair(cube, model[1]['input']['channels']))
    return pd.DataFrame(rows)

def landslide(model, data):
    "The real landslide, by passes after it"
    cube, rows = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc').load(), []
    after = EVENTS['mulitaka'].is_post(cube.time.values)
    for name, n in (('first pass after', 1), ('three passes after', 3), ('all passes after', 99)):
        some = cube.isel(time=np.flatnonzero(~after | (np.cumsum(after) <= n)))
        for passes in (3, None): rows += one_map(f'{name}, {passes or "all"} a side', model, some, make_pair(some, 'mulitaka', passes=passes))
    return pd.DataFrame(rows)

REGIONS = range(300_000, 300_080)

def region_rows(model, seed):
    "Rows of a simulated region"
    cube = random_cube(seed, before=9)
    if cube.landslides.values.sum() < 30: return []
    pair = scene_pair(cube, model[1]['input']['channels'])
    p, truth = prob(model, pair), cube.landslides.values
    nulls = [prob(model, null) for null in null_pairs(cube, pair)]
    facts = dict(seed=seed, any_time=random_region(seed).any_time, auprc=average_precision(p, truth))
    stated = wrong(p, nulls)
    return [dict(facts, rule=rule, threshold=t, **scores(q, truth, t), **(stated if rule == 'place' else {}))
            for rule, (q, t) in rules(p, nulls, model[1]['calibration']['threshold']).items()]

def simulated(model, out):
    "One row a region and rule; regions in the table already are not done again"
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['seed'])
    for seed in tqdm([seed for seed in REGIONS if seed not in set(table.seed)], unit='region'):
        rows = pd.DataFrame(region_rows(model, seed))
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        if len(table): table.to_csv(out, index=False)
    return table

def truthful(table):
    "Means over regions, and how far the false share that a map states lies from the real one, where it marks 30 pixels or more"
    said = table[table.found >= 30].assign(real=lambda t: 1 - t.precision, off=lambda t: (1 - t.precision - t.false_share).abs())
    means = table.groupby('rule', sort=False)[['auprc', 'precision', 'recall', 'f1']].mean()
    shares = said.groupby('rule')[['false_share', 'real', 'off']].mean()
    return means.join(shares).join(said.groupby('rule').off.apply(lambda o: (o <= .1).mean()).rename('within .1')).round(3)

def intervals(table):
    "How often the real share of false pixels lies in the interval that the place states, in regions it was fitted on and in others"
    said = table[(table.rule == 'place') & (table.found >= 30)].assign(real=lambda t: 1 - t.precision, regions=lambda t: np.where(t.seed % 2, 'others', 'fitted on'))
    said = said.assign(inside=said.real.between(said.low, said.high), width=said.high - said.low, off=(said.likely - said.real).abs())
    return said.groupby('regions')[['false_share', 'likely', 'real', 'off', 'inside', 'width']].mean().assign(n=said.groupby('regions').size()).round(3)

HALVES = range(300_000, 300_024)

def maps_of_regions(model):
    "(scores of the pair, truth, scores of the null pairs) of regions with landslides"
    for seed in tqdm(HALVES, unit='region'):
        cube = random_cube(seed, before=9)
        if cube.landslides.values.sum() < 50: continue
        pair = scene_pair(cube, model[1]['input']['channels'])
        p = prob(model, pair)
        yield scores_of(p), cube.landslides.values[np.isfinite(p)], [scores_of(prob(model, null)) for null in null_pairs(cube, pair)]

def halves(model):
    "Recall of the landslides of still regions, alone and beside a restless region in which nothing slid"
    def unrest(region): return np.mean([expit(null).mean() for null in region[2]])
    found = sorted(maps_of_regions(model), key=unrest)
    still, restless = found[:len(found)//3], found[-len(found)//3:]
    rows = []
    for own, truth, nulls in still:
        def recall(curve, threshold): return float((recalibrate(expit(own), curve) >= threshold)[truth == 1].mean())
        alone = recall(*settled(own, nulls))
        for _, _, (*others, last) in restless:
            both = [np.concatenate(two) for two in zip(nulls, [*others, others[0]])]
            rows.append(dict(alone=alone, beside=recall(*settled(np.concatenate([own, last]), both))))
    table = pd.DataFrame(rows).assign(less=lambda t: t.alone - t.beside)
    return table.describe().loc[['count', 'mean', 'min', '25%', '50%', '75%', 'max']].assign(**{'within .05': (table.less <= .05).mean()})

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
    y, x = float(pair.y[0]) - step*np.arange(height), float(pair.x[0]) + step*np.arange(width)
    fine = xr.Dataset(out).assign_coords(moment=pair.moment, y=y, x=x).assign_attrs(pair.attrs)
    return fine.rio.write_crs(pair.rio.crs)

def coarser(pair, factor=3):
    "A pair averaged in power over squares of pixels"
    power = 10**(pair[['vv', 'vh']]/10)
    return (10*np.log10(power.coarsen(y=factor, x=factor).mean())).astype('float32').assign_attrs(pair.attrs).rio.write_crs(pair.rio.crs)

def pixels(model, data):
    "AUPRC of the real landslide by size and noise of the pixels, with no place"
    cube = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc').load()
    pair, truth, rows = make_pair(cube, 'mulitaka', passes=None), cube.landslides.values, []
    fine_truth = truth.repeat(3, 0).repeat(3, 1)
    rows.append(dict(pixels='30 m, as it is', native=average_precision(prob(model, pair), truth)))
    for name, looks in (('10 m, bare', None), ('10 m, 12 looks', 12), ('10 m, 4 looks', 4)):
        fine = finer(pair, looks)
        rows.append(dict(pixels=name, native=average_precision(prob(model, fine), fine_truth),
                         averaged=average_precision(prob(model, coarser(fine)), truth)))
    return pd.DataFrame(rows)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['real', 'events', 'landslide', 'regions', 'halves', 'pixels'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, help='table of all places')
    args = p.parse_args()
    model = load_model(args.model)
    if args.what == 'events': return print(events(model).round(3).to_string())
    if args.what == 'landslide': return print(landslide(model, args.data).round(3).to_string())
    if args.what == 'pixels': return print(pixels(model, args.data).round(3).to_string())
    if args.what == 'halves': return print(halves(model).round(3).to_string())
    if args.what == 'regions':
        table = simulated(model, args.out)
        print(truthful(table).to_string())
        print(truthful(table[table.any_time.astype(bool)]).to_string())
        return print(intervals(table).to_string())
    table = real(model, args.data, args.out)
    print(summary(table, 'rule').to_string())
    print(summary(table, ['strength', 'rule']).to_string())

if __name__ == '__main__': main()
