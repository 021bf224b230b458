"""In which pixels a scene is mapped: the scene's own beside larger ones, and what the rule of the package (notebook 31b) takes.

`python -m benchmarks.scales regions` simulates three kinds of regions: `own` as the shipped weights were trained on, of 10 to 30 m; `sharp` of 10 m, with white speckle
and no blur; `brought` of 30 m, brought to pixels of 10 m, three in ten without speckle and the others with that of 3 to 50 looks. Limits and weights of the rule were chosen on
other regions, drawn in the same way. `injected`: simulated landslides of 1 to 50 ha on the real null pairs of California, at their own 30 m and brought
to 10 m with speckle of 12 and 4 looks. `landslide`: the real one. `events`: the embedded ones. The last three are checks: nothing was chosen on them.
Each row is a mean of average precisions over scenes, with the 95 % interval of the difference to the scene's own pixels (bootstrap of scenes)."""
import argparse
from dataclasses import replace
from pathlib import Path

import dask.array as da
import numpy as np
import pandas as pd
from tqdm import tqdm

from benchmarks.place import finer, injected, places
from landslide_nb.core import to_db, to_power
from landslide_nb.data.cube import open_cube
from landslide_nb.data.events import event_cube
from landslide_nb.data.pair import make_pair
from landslide_nb.learn.metrics import average_precision
from landslide_nb.learn.models import load_model
from landslide_nb.mapping.mapping import scene_pair
from landslide_nb.mapping.scales import choose_scales, coarser, fuse_scales
from landslide_nb.mapping.scene import predict_scene
from landslide_nb.weights import base
from landslide_nb.weights.adapt import slide_change

RULES = { # the pixels in which a scene is mapped, times its own
    'own': [1],
    '2': [2],
    '3': [3],
    '1 and 2': [1, 2],
    '1 and 3': [1, 3],
    '2 and 3': [2, 3],
    '1, 2 and 3': [1, 2, 3],
}
SEEDS = dict(
    own=range(520_000, 520_060),
    many=range(510_000, 510_060),
    sharp=range(530_000, 530_060),
    brought=range(500_000, 500_060),
)
LEAST = 60 # landslide pixels
LOOKS = None, 12, 4 # of the speckle that is added to scenes brought to 10 m; None: no speckle

def drawn(seed, kind):
    "A region of a kind"
    region, rng = base.random_region(seed), np.random.default_rng([seed, 77])
    if kind == 'own': return region
    pixel = 30. if kind == 'brought' else 10.
    share, contrast = base.log_uniform(rng, .005, .06), region.contrast or 1.5
    strengths = dict(pixel=pixel, max_km2=1., share=share, extent=1., contrast=contrast)
    if kind == 'brought': return replace(region, **strengths)
    size_law = float(rng.uniform(.6, 1)), 1.28e-3*base.log_uniform(rng, .4, 12), -1.32e-4
    radar = dict(enl=base.log_uniform(rng, 3, 50), speckle_tap=float(rng.uniform(0, .45)))
    if kind == 'sharp': radar = dict(enl=base.log_uniform(rng, 3, 25), speckle_tap=0., psf_px=.05)
    return replace(region, **strengths, **radar, size_law=size_law)

def pair_of(seed, kind, size=384):
    "The pair of a region of a kind, made as those of the shipped weights"
    before = base.random_region
    region = drawn(seed, kind)
    def the_region(_):
        "What `random_cube` draws"
        return region
    base.random_region = the_region
    try: return base.random_pair(seed, size)
    finally: base.random_region = before

def on_metres(pair, step):
    "The pair on a grid of its pixel's size"
    y, x = 9e6 - step*np.arange(pair.sizes['y']), 5e5 + step*np.arange(pair.sizes['x'])
    return pair.drop_vars('spatial_ref', errors='ignore').assign_coords(y=y, x=x).rio.write_crs('EPSG:32654')

def fine_positions(n, factor):
    "Where the middles of smaller pixels lie among n larger ones, none outside the outermost middles"
    middles = (np.arange(factor*n) + .5)/factor - .5
    return np.clip(middles, 0, n - 1)

def smooth_finer(pair, factor=3):
    "A pair in smaller pixels, interpolated in power"
    height, width = pair.sizes['y'], pair.sizes['x']
    plain = to_power(pair[['vv', 'vh']]).assign_coords(y=np.arange(height), x=np.arange(width))
    fine = plain.interp(y=fine_positions(height, factor), x=fine_positions(width, factor))
    return on_metres(to_db(fine).astype('float32').assign_attrs(pair.attrs), 10.)

def with_speckle(pair, looks, seed):
    "The pair with white speckle"
    rng = np.random.default_rng(seed)
    def speckled(band):
        "One band of it"
        return (band + to_db(rng.gamma(looks, 1/looks, band.shape))).astype('float32')
    return pair.assign({name: speckled(pair[name]) for name in ('vv', 'vh')})

def in_thirds(truth):
    "A truth in pixels a third as wide"
    return truth.repeat(3, 0).repeat(3, 1)

def brought_scene(seed):
    "(kind, pair, truth) of a region of 30 m, brought to pixels of 10 m"
    pair, rng = on_metres(pair_of(seed, 'brought', 128), 30.), np.random.default_rng([seed, 79])
    looks = None if rng.random() < .3 else base.log_uniform(rng, 3, 50)
    fine = on_metres(finer(pair, None), 10.) if rng.random() < .5 else smooth_finer(pair)
    truth = in_thirds(pair.landslides.values)
    if not looks: return 'brought, bare', fine, truth
    return 'brought, speckle', with_speckle(fine, looks, seed), truth

def region_scene(seed, kind):
    "(kind, pair, truth) of a seed"
    if kind == 'brought': return brought_scene(seed)
    pair = pair_of(seed, kind)
    name = 'own' if kind == 'many' else kind
    return name, on_metres(pair, pair.attrs['pixel']), pair.landslides.values

def prob(model, pair):
    "The map of a model, with no place in it"
    return predict_scene(pair, *model, progress=False).values

def maps_of(model, pair):
    "{how many times larger the pixels are: map}"
    maps = {}
    for k in (1, 2, 3):
        larger = coarser(pair, k) if k > 1 else pair
        maps[k] = da.from_array(prob(model, larger))
    return maps

def scored(model, pair, truth):
    "Average precision of each rule, what the package chooses, and what that scores"
    shape = pair.sizes['y'], pair.sizes['x']
    maps = maps_of(model, pair)
    def score(scales, between=True):
        "Average precision of the maps of some scales, made one"
        fused = fuse_scales({k: maps[k] for k in scales}, shape, between)
        return average_precision(fused.compute(), truth)
    chosen = choose_scales(pair)
    row = {rule: score(scales) for rule, scales in RULES.items()}
    auto = row['own'] if chosen['scales'] == [1] else score(chosen['scales'], chosen['why'] != 'copied')
    return dict(row, auto=auto, why=chosen['why'], looks=chosen.get('looks'))

def jobs():
    "(kind, seed) of all regions, one of each kind in turn"
    return [(kind, seed) for seeds in zip(*SEEDS.values()) for kind, seed in zip(SEEDS, seeds)]

def regions(model, out):
    "One row a region; those in the table already are not done again"
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['seed', 'drawn'])
    done = set(zip(table.drawn, table.seed))
    for kind, seed in tqdm([one for one in jobs() if one not in done], unit='region'):
        name, pair, truth = region_scene(seed, kind)
        row = dict(seed=seed, drawn=kind, kind=name)
        if (truth == 1).sum() >= LEAST: row |= scored(model, pair, truth)
        table = pd.concat([table, pd.DataFrame([row])], ignore_index=True)
        table.to_csv(out, index=False)
    return table.dropna(subset='own')

def large_changes(n=4):
    "Change and truth of landslides of 1 to 50 ha in pixels of 30 m"
    every = [(seed, base.random_region(seed)) for seed in range(9_000_000, 9_000_200)]
    seen = [(seed, region) for seed, region in every if region.contrast > .7]
    larger = [(seed, replace(region, pixel=30., share=.03, extent=1., max_km2=.5)) for seed, region in seen[:n]]
    return [large_only(*slide_change(region, seed, 100)) for seed, region in larger]

def large_only(change, truth, least=11, most=556):
    "Landslides of 11 to 556 pixels of 900 m2; the others are taken out"
    from scipy.ndimage import label
    groups, _ = label(truth, np.ones((3, 3)))
    sizes = np.bincount(groups.ravel())
    kept = (sizes >= least) & (sizes <= most)
    kept[0] = False
    return change*(kept[groups] | (groups == 0)), truth*kept[groups]

def looks_name(looks):
    "How a table names a scene brought to 10 m"
    return f"10 m, {looks or 'no'} looks added"

def injection_rows(at, model, event, slides, seed):
    "Rows of a pair with landslides: at its own 30 m, and brought to 10 m"
    yield dict(at, pixels='30 m', **scored(model, event, slides))
    for looks in LOOKS:
        fine = on_metres(finer(event, looks, seed=seed), 10.)
        coarse = prob(model, on_metres(coarser(fine, 3), 30.))
        averaged = average_precision(coarse, slides)
        yield dict(at, pixels=looks_name(looks), averaged=averaged, **scored(model, fine, in_thirds(slides)))

def injections(model, data, out):
    "One row a crop, injection and number of looks"
    table = pd.read_csv(out) if out.exists() else pd.DataFrame(columns=['place', 'smooth'])
    done, changes = set(zip(table.place, table.smooth)), large_changes()
    for n, (place, smooth, kind, _, pair) in enumerate(tqdm(list(places(data)), unit='place')):
        if (place, smooth) in done or not place.endswith((' 0', ' 3')): continue
        rows = []
        for k, (change, truth) in enumerate(changes):
            if truth.sum() < 30: continue
            event, slides = injected(pair, change*2, truth, smooth)
            at = dict(place=place, smooth=smooth, kind=kind, injection=k)
            rows += injection_rows(at, model, event, slides, 100*n + k)
        table = pd.concat([table, pd.DataFrame(rows)], ignore_index=True)
        table.to_csv(out, index=False)
    return table

def landslide(model, data, seeds=5):
    "The real landslide, at its own 30 m and brought to 10 m"
    cube = open_cube(data/'png_2024'/'png_landslide_2024_track9.nc').load()
    pair, truth = make_pair(cube, 'mulitaka', passes=None), cube.landslides.values
    rows = [dict(pixels='30 m', seed=0, **scored(model, pair, truth))]
    for looks in LOOKS:
        for seed in range(seeds if looks else 1):
            fine = on_metres(finer(pair, looks, seed), 10.)
            rows.append(dict(pixels=looks_name(looks), seed=seed, **scored(model, fine, in_thirds(truth))))
    return pd.DataFrame(rows)

def events(model):
    "The embedded events"
    rows = []
    for name in ('demo_a', 'demo_b'):
        cube = event_cube(name)
        pair = scene_pair(cube, ['vv', 'vh'])
        rows.append(dict(event=name, **scored(model, pair, cube.landslides.values)))
    return pd.DataFrame(rows)

def difference(one, other, draws=2000, seed=0):
    "The mean of differences and its 95 % interval, as text"
    delta = (one - other).to_numpy()
    if len(delta) < 2: return f'{delta.mean():+.3f}'
    means = np.random.default_rng(seed).choice(delta, (draws, len(delta))).mean(1)
    low, high = np.quantile(means, (.025, .975))
    return f'{delta.mean():+.3f} ({low:+.3f} to {high:+.3f})'

def gains(groups, over):
    "What the package's choice gains over a column, by kind"
    return pd.Series({key: difference(group.auto, group[over]) for key, group in groups})

def summary(table, by):
    "Means of each rule by kind, how many scenes the package maps larger, and what that gains"
    groups = table.groupby(by, sort=False)
    is_averaged = 'averaged' in table
    columns = [*RULES, 'auto', 'averaged'] if is_averaged else [*RULES, 'auto']
    means = groups[columns].mean().round(3)
    larger = groups.why.apply(lambda why: f"{(why != 'own').sum()} of {len(why)}")
    means = means.assign(larger=larger, gain=gains(groups, 'own'))
    if is_averaged: means['auto - averaged'] = gains(groups, 'averaged')
    return means

def table_of(args, model):
    "(table, column that tells its kinds) of what is asked for"
    if args.what == 'regions': return regions(model, args.out), 'kind'
    if args.what == 'landslide': return landslide(model, args.data), 'pixels'
    if args.what == 'events': return events(model), 'event'
    table = injections(model, args.data, args.out)
    filtered = table.smooth.map({True: ', despeckled', False: ''})
    return table.assign(what=table.pixels + filtered), 'what'

def arguments():
    "What the command line says"
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['regions', 'injected', 'landslide', 'events'])
    p.add_argument('--data', type=Path, help='folder of the real images')
    p.add_argument('--model', default='base')
    p.add_argument('--out', type=Path, help='table of all scenes')
    return p.parse_args()

def main():
    "Make the table that is asked for, and print its means"
    args = arguments()
    print(summary(*table_of(args, load_model(args.model))).to_string())

if __name__ == '__main__': main()
