"""What is site adaptation of the shipped weights worth (`landslide-nb adapt`), without any label?

    python -m benchmarks.adapt simulated --out simulated.csv
    python -m benchmarks.adapt real --data FOLDER --out real.csv
    python -m benchmarks.adapt picture --tables simulated.csv real.csv --out adapt.png

Each row is a place: weights are adapted to its passes before the event, as the command does, and compared with the shipped ones,
both as `map` would use them there. `simulated`: places of 512 px with three quiet years, scored on the event
itself and, for false alarms, on a fourth quiet year that nothing else saw. `real`: the land crops of California (opera_rtc_s1/*),
(null pairs): false alarms on the latest pass and on the first of the latest season, and how much of the landslides of twelve random regions injected into
that very pair is found; and the Mulitaka landslide (png_2024). Nothing was chosen on the real images. About an hour on one core each;
what is in the table already is not done again.
"""
import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.first_map import (
    days_of, land_crops, mulitaka_cube, pair_between, quiet_pairs, smoothed, with_passes_after)
from landslide_nb.weights.adapt import adapt_model, slide_change
from landslide_nb.weights.base import random_region
from landslide_nb.data.pair import pair_statistics, make_pair
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.place import settle_place
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.simulate import simulate_archive, simulate_event

ORBIT = ('ascending',)
SCALES = dict(recall=('linear', {}), alarms=('symlog', dict(linthresh=.01))) # of the picture's axes
TITLES = dict(recall='landslide pixels above the threshold (%)', alarms='false alarms of a quiet image (% of pixels)')

# --- scores of a model

def both(cube, pair, days=300):
    "The shipped and the adapted model of a place"
    with TemporaryDirectory() as tmp:
        shipped = load_model('base')
        path = adapt_model(cube, pair, Path(tmp)/'m.safetensors', days=days)
        return dict(shipped=shipped, adapted=load_model(path))

def despeckled(cube, weight):
    "The cube with each pass smoothed by total variation"
    smooth = {band: np.stack([smoothed(power, weight) for power in cube[band].values]) for band in ('vv', 'vh')}
    return cube.assign({band: cube[band].copy(data=powers) for band, powers in smooth.items()})

def prob(model, cube, pair):
    "The map of a pair as `map` would make it, and its threshold"
    net, meta = model
    here = settle_place(cube, pair, net, meta, progress=False)
    return predict_scene(pair, net, here, progress=False).values, here['calibration']['threshold']

def found(maps, truths):
    "How well maps rank the pixels of landslides, how many of them they find, and how many they expect for each"
    p = np.concatenate([p for p, _ in maps], axis=None)
    above = np.concatenate([p >= threshold for p, threshold in maps], axis=None)
    truth = np.concatenate(truths, axis=None)
    expected = float(np.nansum(p)/max(1, (truth == 1).sum()))
    return dict(auprc=average_precision(p, truth), recall=float(above[truth == 1].mean()), expected=expected)

def alarms(p, threshold):
    "Share of the known pixels above a threshold"
    return float((p[np.isfinite(p)] >= threshold).mean())

def row(models, cube, events, truths, quiet):
    "Scores of each model: on pairs with landslides, and on a quiet one"
    out = {}
    for name, model in models.items():
        scores = found([prob(model, cube, event) for event in events], truths)
        if quiet is not None: scores['alarms'] = alarms(*prob(model, cube, quiet))
        out |= {f'{what}_{name}': score for what, score in scores.items()}
    return out

# --- simulated places

def simulated_places():
    "(kind, region, seed, passes after, whether despeckled) of places that no training used"
    clear = [s for s in range(400_000, 400_200) if random_region(s).contrast > .7]
    fields = [s for s in clear if random_region(s).plot_px != REGIONS['demo_a'].plot_px] # wide ones
    others = [s for s in clear if s not in fields]
    for k in range(4):
        after, smooth = (1, 3)[k % 2], k > 1
        for name in REGIONS: yield name, REGIONS[name], 41 + k, after, smooth
        for name, seeds in (('random region with fields', fields), ('random region', others)):
            yield name, random_region(seeds[k]), seeds[k], after, smooth

def simulated_place(region, seed, after, smooth):
    "A cube with some passes after an event, and the quiet pair of a year that the cube does not hold"
    cube = simulate_archive(region, seed, 512, passes=4, orbits=ORBIT)
    cube = cube.isel(time=slice(len(cube.time) - 4 + after)) # it ends with four passes after the event
    year = simulate_event(region, seed, 512, passes=4, orbits=ORBIT, year=-4)
    year = year.assign_coords(time=year.time + np.timedelta64(4*365, 'D')) # as if it followed the archive
    if smooth: cube, year = despeckled(cube, .3), despeckled(year, .3)
    return cube, pair_between(year, range(1, 4), range(4, 4 + after))

def simulated(done, progress):
    "A row a simulated place that is not done"
    for kind, region, seed, after, smooth in progress(list(simulated_places())):
        key = dict(kind=kind + ', despeckled'*smooth, place=str(seed), passes_after=after)
        if key in done: continue
        cube, quiet = simulated_place(region, seed, after, smooth)
        pair = make_pair(cube, passes=3)
        yield key | row(both(cube, pair), cube, [pair], [cube.landslides.values], quiet)

# --- real places

def latest_quiet_pairs(cube):
    "{kind: positions before and after} of the latest pair of each kind, for it has most passes before"
    return {kind: (pre, post) for kind, pre, post in quiet_pairs(cube) if kind.endswith('1 after')}

def real_quiet(data):
    "(kind, place, cube, positions of the pair): the latest pair of each kind"
    for folder in land_crops(data):
        for how in ('raw', 'despeckled'):
            cube = open_cube(folder).load()
            if how == 'despeckled': cube = despeckled(cube, .2)
            for kind, (pre, post) in latest_quiet_pairs(cube).items():
                yield f'{kind}, {how}', f'{folder.name[-10:]} {days_of(cube)[post[0]]}', cube, pre, post

def real_landslide(done, data):
    "A row a number of passes after the Mulitaka landslide that is not done"
    cube = mulitaka_cube(data)
    for after in (1, 5):
        key = dict(kind='Mulitaka', place='track 9', passes_after=after)
        if key in done: continue
        some = with_passes_after(cube, after)
        pair = make_pair(some, 'mulitaka', passes=None)
        yield key | row(both(some, pair, days=0), some, [pair], [some.landslides.values], None)

def real(done, progress, data):
    "A row a real place that is not done: the landslide, then quiet pairs with landslides laid on"
    yield from real_landslide(done, data)
    for kind, place, cube, pre, post in progress(list(real_quiet(data))):
        key = dict(kind=kind, place=place, passes_after=1)
        if key in done: continue
        pair = pair_between(cube, pre, post)
        past = cube.isel(time=[*range(pre[-1] + 1), *post])
        yield key | row(both(past, pair), past, *with_landslides(pair), pair)

def clear_regions(pixel, n):
    "(seed, region) of random regions whose landslides show, at pixels of a size in m"
    regions = [(seed, random_region(seed)) for seed in range(9_000_000, 9_000_200)]
    clear = [(seed, region) for seed, region in regions if region.contrast > .7][:n]
    return [(seed, replace(region, pixel=pixel, share=.02, extent=1.)) for seed, region in clear]

def with_landslides(pair, draws=12):
    "A quiet pair with landslides of random regions laid on: (pairs, truths)"
    h, w = pair.sizes['y'], pair.sizes['x']
    laid, truths = [], []
    for seed, region in clear_regions(pair_statistics(pair)['pixel size (m)'], draws):
        change, truth = slide_change(region, seed, max(h, w, 64))
        one = pair[['vv', 'vh']].copy(deep=True).assign_attrs(pair.attrs)
        for band, db in zip(('vv', 'vh'), change): one[band].values[1] += db[:h, :w]
        laid.append(one)
        truths.append(truth[:h, :w])
    return laid, truths

# --- the picture and the table

def scatter(ax, what, rows, **style):
    "A score of the adapted weights against that of the shipped ones, in percent"
    ax.scatter(100*rows[f'{what}_shipped'], 100*rows[f'{what}_adapted'], **style)

def dress(ax, what):
    "Name the axes, and draw the line on which both weights are alike"
    scale, options = SCALES[what]
    ax.set_xscale(scale, **options)
    ax.set_yscale(scale, **options)
    ax.set(title=TITLES[what], xlabel='shipped weights', ylabel='adapted weights')
    top = max(ax.get_xlim()[1], ax.get_ylim()[1])
    ax.plot([0, top], [0, top], color='.6', lw=.8, zorder=0)
    ax.set(xlim=(0, top), ylim=(0, top), aspect='equal')

def picture(tables, path):
    "Each place: what is found of its landslides, and how much of a quiet image is false alarm, shipped against adapted"
    import matplotlib
    matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout='constrained')
    for table, name, marker in zip(tables, ('simulated places', 'real crops, landslides laid on'), 'o^'):
        quiet = table[table.alarms_shipped.notna()]
        style = dict(marker=marker, alpha=.8, label=f'{name} ({len(quiet)})')
        for ax, what in zip(axes, SCALES): scatter(ax, what, quiet, **style)
    mulitaka = tables[-1][tables[-1].alarms_shipped.isna()]
    scatter(axes[0], 'recall', mulitaka, marker='*', s=130, color='crimson', label='Mulitaka, a real landslide')
    for ax, what in zip(axes, SCALES): dress(ax, what)
    axes[0].legend(frameon=False, fontsize='small')
    fig.savefig(path, dpi=80)

def print_summary(table):
    "The mean of each kind, and its worst place"
    kinds = table.drop(columns='place').groupby(['kind', 'passes_after'])
    print(kinds.mean().round(4).T.to_string())
    worst = kinds[[c for c in table if c.startswith('alarms')]].max()
    print('\nworst place\n', worst.round(4).to_string())

def arguments():
    "The words of the command"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['simulated', 'real', 'picture'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--out', type=Path, required=True, help='table of all places, or picture')
    p.add_argument('--tables', type=Path, nargs=2, help='tables to draw')
    return p.parse_args()

def main():
    "Draw the picture, or go on with a table and print what it says"
    from tqdm import tqdm
    args = arguments()
    if args.what == 'picture': return picture([pd.read_csv(path) for path in args.tables], args.out)
    table = pd.read_csv(args.out, dtype=dict(place=str)) if args.out.exists() else pd.DataFrame()
    done = table[['kind', 'place', 'passes_after']].to_dict('records') if len(table) else []
    progress = partial(tqdm, desc=args.what, unit='place')
    rows = simulated(done, progress) if args.what == 'simulated' else real(done, progress, args.data)
    for one in rows:
        table = pd.concat([table, pd.DataFrame([one])], ignore_index=True)
        table.to_csv(args.out, index=False)
    print_summary(table)

if __name__ == '__main__': main()
