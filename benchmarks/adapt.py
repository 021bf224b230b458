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
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from benchmarks.first_map import quiet_pairs
from landslide_nb.weights.adapt import adapt_model, slide_change
from landslide_nb.weights.base import despeckle, random_region
from landslide_nb.core import EVENTS
from landslide_nb.data.pair import pair_statistics, make_pair
from landslide_nb.data.cube import open_cube
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.place import settle_place
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.data.landscape import REGIONS
from landslide_nb.data.simulate import simulate_archive, simulate_event

ORBIT = ('ascending',)

def both(cube, pair, days=300):
    "The shipped and the adapted model of a place"
    with TemporaryDirectory() as tmp:
        return dict(shipped=load_model('base'), adapted=load_model(adapt_model(cube, pair, Path(tmp)/'m.safetensors', days=days)))

def despeckled(cube, weight):
    "The cube with each pass smoothed by total variation"
    one = lambda p: np.where(np.isnan(p), np.nan, despeckle(np.nan_to_num(p, nan=float(np.nanmedian(p))), 'tv', weight))
    return cube.assign({c: cube[c].copy(data=np.stack([one(p) for p in cube[c].values])) for c in ('vv', 'vh')})

def prob(model, cube, pair):
    "The map of a pair as `map` would make it, and its threshold"
    meta = settle_place(cube, pair, *model, progress=False)
    return predict_scene(pair, model[0], meta, progress=False).values, meta['calibration']['threshold']

def found(maps, truth):
    p, truth = np.concatenate([p for p, _ in maps], axis=None), np.concatenate(truth, axis=None)
    above = np.concatenate([p >= threshold for p, threshold in maps], axis=None)
    return dict(auprc=average_precision(p, truth), recall=float(above[truth == 1].mean()), expected=float(np.nansum(p)/max(1, (truth == 1).sum())))

def alarms(p, threshold): return float((p[np.isfinite(p)] >= threshold).mean())

def row(models, cube, events, truths, quiet):
    "Scores of each model: on pairs with landslides, and on a quiet one"
    out = {}
    for k, m in models.items():
        scores = found([prob(m, cube, e) for e in events], truths) | (dict(alarms=alarms(*prob(m, cube, quiet))) if quiet is not None else {})
        out |= {f'{name}_{k}': v for name, v in scores.items()}
    return out

def simulated_places():
    "(kind, region, seed, passes after, whether despeckled) of places that no training used"
    clear = [s for s in range(400_000, 400_200) if random_region(s).contrast > .7]
    fields = [s for s in clear if random_region(s).plot_px != REGIONS['demo_a'].plot_px] # wide ones
    for k in range(4):
        n = (1, 3)[k % 2]
        for name in REGIONS: yield name, REGIONS[name], 41 + k, n, k > 1
        for name, seeds in (('random region with fields', fields), ('random region', [s for s in clear if s not in fields])): yield name, random_region(seeds[k]), seeds[k], n, k > 1

def simulated(done, progress):
    for kind, region, seed, n, smooth in progress(list(simulated_places())):
        if (key := dict(kind=kind + ', despeckled'*smooth, place=str(seed), passes_after=n)) in done: continue
        cube = simulate_archive(region, seed, 512, passes=4, orbits=ORBIT)
        event = [*range(len(cube.time) - 8, len(cube.time) - 4)][-3:] + [*range(len(cube.time) - 4, len(cube.time) - 4 + n)]
        cube, year = cube.isel(time=[*range(event[0]), *event]), simulate_event(region, seed, 512, passes=4, orbits=ORBIT, year=-4)
        if smooth: cube, year = despeckled(cube, .3), despeckled(year, .3)
        pair = make_pair(cube, passes=3)
        days = [str(t)[:10] for t in year.time.values]
        quiet = make_pair(year.isel(time=slice(1, 4 + n)), (days[3], days[4]), passes=None)
        yield key | row(both(cube, pair), cube, [pair], [cube.landslides.values], quiet)

def real_quiet(data):
    "(kind, place, cube, positions of the pair): the latest pair of each kind, for it has most passes before"
    for folder in sorted((data/'opera_rtc_s1').iterdir())[1:]: # the first is the sea
        for how in ('raw', 'despeckled'):
            cube = open_cube(folder).load()
            if how == 'despeckled': cube = despeckled(cube, .2)
            for kind, pre, post in {k: (k, *o) for k, *o in quiet_pairs(cube) if k.endswith('1 after')}.values():
                yield f'{kind}, {how}', f'{folder.name[-10:]} {str(cube.time.values[post[0]])[:10]}', cube, pre, post

def real(done, progress, data):
    cube, last = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc'), EVENTS['mulitaka'].is_post
    for n in (1, 5):
        if (key := dict(kind='Mulitaka', place='track 9', passes_after=n)) in done: continue
        after = last(cube.time.values); some = cube.isel(time=np.flatnonzero(~after | (np.cumsum(after) <= n)))
        pair = make_pair(some, 'mulitaka', passes=None)
        yield key | row(both(some, pair, days=0), some, [pair], [some.landslides.values], None)
    for kind, place, cube, pre, post in progress(list(real_quiet(data))):
        if (key := dict(kind=kind, place=place, passes_after=1)) in done: continue
        days = [str(t)[:10] for t in cube.time.values]
        when = days[pre[-1]], days[post[0]]
        pair = make_pair(cube.isel(time=[*pre, *post]), when, passes=None)
        past = cube.isel(time=[*range(pre[-1] + 1), *post])
        yield key | row(both(past, pair), past, *with_landslides(pair), pair)

def with_landslides(pair, draws=12):
    "A quiet pair with landslides of random regions laid on: (pairs, truths)"
    from dataclasses import replace
    h, w = pair.sizes['y'], pair.sizes['x']
    regions = [(s, random_region(s)) for s in range(9_000_000, 9_000_200)]
    some = [(s, replace(r, pixel=pair_statistics(pair)['pixel size (m)'], share=.02, extent=1.)) for s, r in regions if r.contrast > .7][:draws]
    laid, truths = [], []
    for s, r in some:
        (change, truth), one = slide_change(r, s, max(h, w, 64)), pair[['vv', 'vh']].copy(deep=True).assign_attrs(pair.attrs)
        for o, c in zip(('vv', 'vh'), change): one[o].values[1] += c[:h, :w]
        laid.append(one); truths.append(truth[:h, :w])
    return laid, truths

def picture(tables, path):
    "Each place: what is found of its landslides, and how much of a quiet image is false alarm, shipped against adapted"
    import matplotlib; matplotlib.use('agg')
    import matplotlib.pyplot as plt
    fig, axes = plt.subplots(1, 2, figsize=(9, 4.3), layout='constrained')
    for table, name, marker in zip(tables, ('simulated places', 'real crops, landslides laid on'), 'o^'):
        t = table[table.alarms_shipped.notna()]
        for ax, what in zip(axes, ('recall', 'alarms')): ax.scatter(100*t[f'{what}_shipped'], 100*t[f'{what}_adapted'], marker=marker, alpha=.8, label=f'{name} ({len(t)})')
    real = tables[-1][tables[-1].alarms_shipped.isna()]
    axes[0].scatter(100*real.recall_shipped, 100*real.recall_adapted, marker='*', s=130, color='crimson', label='Mulitaka, a real landslide')
    for ax, what, scale in zip(axes, ('landslide pixels above the threshold (%)', 'false alarms of a quiet image (% of pixels)'), (('linear',), ('symlog',))):
        ax.set(xscale=scale[0], yscale=scale[0], title=what, xlabel='shipped weights', ylabel='adapted weights')
        if scale[0] == 'symlog': ax.set_xscale('symlog', linthresh=.01); ax.set_yscale('symlog', linthresh=.01)
        top = max(ax.get_xlim()[1], ax.get_ylim()[1]); ax.plot([0, top], [0, top], color='.6', lw=.8, zorder=0); ax.set(xlim=(0, top), ylim=(0, top), aspect='equal')
    axes[0].legend(frameon=False, fontsize='small')
    fig.savefig(path, dpi=80)

def main():
    from tqdm import tqdm
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['simulated', 'real', 'picture'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--out', type=Path, required=True, help='table of all places, or picture')
    p.add_argument('--tables', type=Path, nargs=2, help='tables to draw')
    args = p.parse_args()
    if args.what == 'picture': return picture([pd.read_csv(o) for o in args.tables], args.out)
    table = pd.read_csv(args.out, dtype=dict(place=str)) if args.out.exists() else pd.DataFrame()
    done = table[['kind', 'place', 'passes_after']].to_dict('records') if len(table) else []
    progress = lambda o: tqdm(o, desc=args.what, unit='place')
    for r in simulated(done, progress) if args.what == 'simulated' else real(done, progress, args.data):
        table = pd.concat([table, pd.DataFrame([r])], ignore_index=True); table.to_csv(args.out, index=False)
    print(table.drop(columns='place').groupby(['kind', 'passes_after']).mean().round(4).T.to_string())
    print('\nworst place\n', table.drop(columns='place').groupby(['kind', 'passes_after'])[[c for c in table if c.startswith('alarms')]].max().round(4).to_string())

if __name__ == '__main__': main()
